"""The main job: the model against `transformers`, the pipeline as a person runs it, and what it refuses."""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen3Config

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "qwen3"
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
Broken = Callable[..., Path]


def run(
    *command: str, folder: Path = EXAMPLE, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    program = [sys.executable] if command[0].endswith(".py") else []
    return subprocess.run(
        [*program, str(folder / command[0]), *command[1:]],
        capture_output=True,
        text=True,
        timeout=200,
        cwd=cwd,
        env={**ENVIRONMENT, **environment},
    )


@pytest.fixture(scope="module")
def scripts() -> ModuleType:
    """The example's scripts as modules, `scripts.train` and so on."""
    before, hook = list(sys.path), sys.excepthook
    sys.path.insert(0, str(EXAMPLE))
    found = ModuleType("scripts")
    for name in ("problems", "folders", "model", "make_data", "make_tiny", "load_weights", "prepare_data", "train"):
        setattr(found, name, __import__(name))
    sys.path[:], sys.excepthook = before, hook
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, scripts: ModuleType) -> Path:
    """The tiny checkpoints, the tiny data set, and its prepared rows."""
    folder = tmp_path_factory.mktemp("qwen3")
    rows = scripts.make_data.rows()
    texts = ["\n".join(row.values()) for row in rows]
    for kind in ("qwen3", "qwen2"):
        scripts.make_tiny.make(folder / kind, kind, texts)
    (folder / "data.json").write_text(json.dumps(rows))
    paths = ["--data", str(folder / "data.json"), "--model", str(folder / "qwen3"), "--prepared", str(folder / "prepared")]
    done = run("prepare_data.py", *paths)
    assert "Dataset size: 1000 examples" in done.stdout, done.stderr
    return folder


# -- the model -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "hidden", "heads", "kv_heads", "head_dim"),
    [
        ("qwen3", 48, 4, 1, 16),
        ("qwen3", 40, 4, 2, 24),
        ("qwen3", 64, 6, 6, 8),
        ("qwen3", 32, 8, 2, 16),
        ("qwen2", 48, 6, 2, 8),
        ("qwen2", 64, 4, 4, 16),
    ],
)
@pytest.mark.parametrize("tied", [True, False])
def test_logits_and_gradients_are_those_of_transformers(
    kind: str, hidden: int, heads: int, kv_heads: int, head_dim: int, tied: bool, scripts: ModuleType, tmp_path: Path
) -> None:
    sizes = {"hidden_size": hidden, "num_attention_heads": heads, "num_key_value_heads": kv_heads, "num_hidden_layers": 2}
    sizes |= {"vocab_size": 97, "intermediate_size": 56, "tie_word_embeddings": tied}
    sizes |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
    config = Qwen3Config(head_dim=head_dim, **sizes) if kind == "qwen3" else Qwen2Config(**sizes)
    torch.manual_seed(0)
    reference = AutoModelForCausalLM.from_config(config)
    for parameter in reference.parameters():
        torch.nn.init.normal_(parameter, mean=0.2 * (parameter.dim() == 1), std=0.3)
    reference.save_pretrained(tmp_path)
    model = scripts.load_weights.load(tmp_path)
    ids, targets = np.random.default_rng(0).integers(0, 97, (2, 3, 21))
    targets[:, :5] = -100
    loss = scripts.train.loss_sum(model, ids, targets, bf16=False)
    loss.backward()
    expected = reference(torch.from_numpy(ids)).logits
    torch.nn.functional.cross_entropy(
        expected.flatten(0, 1), torch.from_numpy(targets).flatten(), reduction="sum"
    ).backward()
    with torch.no_grad():
        logits = model(torch.from_numpy(ids).to("remote")).cpu()
    assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()
    gradients = {name: p.grad.cpu() for name, p in model.named_parameters()}
    assert set(gradients) == {name for name, _ in reference.named_parameters()}
    for name, parameter in reference.named_parameters():
        assert (gradients[name] - parameter.grad).abs().max() <= 1e-5 * parameter.grad.abs().max(), name


@pytest.mark.parametrize(
    ("hidden", "layers", "heads", "intermediate", "tied", "count"),
    [
        (1024, 28, 16, 3072, True, 596_049_920),
        (2048, 28, 16, 6144, True, 1_720_574_976),
        (2560, 36, 32, 9728, True, 4_022_468_096),
        (4096, 36, 32, 12288, False, 8_190_735_360),
    ],
)
def test_the_official_sizes_have_the_official_number_of_parameters(
    hidden: int, layers: int, heads: int, intermediate: int, tied: bool, count: int, scripts: ModuleType
) -> None:
    config = scripts.model.Config(151_936, hidden, layers, heads, 8, 128, intermediate, tie_word_embeddings=tied)
    with torch.device("meta"):
        model = scripts.model.Qwen3(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_bfloat16_follows_transformers_cast_by_cast(made: Path, scripts: ModuleType) -> None:
    reference = AutoModelForCausalLM.from_pretrained(made / "qwen3", dtype=torch.bfloat16)
    model = scripts.load_weights.load(made / "qwen3").bfloat16()
    ids = torch.arange(40).reshape(2, 20)
    with torch.no_grad():
        assert torch.equal(model(ids.to("remote")).cpu(), reference(ids).logits)


# -- checkpoints ---------------------------------------------------------------------------------------------------------


def sharded(source: Path, out: Path, head: torch.Tensor | None = None) -> Path:
    """The checkpoint as the 1.7B repository lays it out: bf16, and a second shard that holds lm_head alone."""
    shutil.copytree(source, out)
    weights = {name: tensor.bfloat16() for name, tensor in load_file(out / "model.safetensors").items()}
    (out / "model.safetensors").unlink()
    other = {"lm_head.weight": weights["model.embed_tokens.weight"].clone() if head is None else head}
    places = {}
    for number, part in enumerate((weights, other), 1):
        name = f"model-0000{number}-of-00002.safetensors"
        save_file(part, out / name, {"format": "pt"})
        places |= dict.fromkeys(part, name)
    (out / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    config = json.loads((out / "config.json").read_text())
    del config["dtype"]
    (out / "config.json").write_text(json.dumps({**config, "torch_dtype": "bfloat16"}))
    return out


@pytest.mark.parametrize("kind", ["qwen3", "qwen2"])
def test_the_tiny_twins_are_verified_against_transformers(kind: str, made: Path) -> None:
    done = run("load_weights.py", "--model", str(made / kind))
    assert "Forward pass verification PASSED" in done.stdout, done.stdout + done.stderr


def test_a_tied_head_in_a_second_bf16_shard_is_verified_and_written_once(
    made: Path, tmp_path: Path, scripts: ModuleType
) -> None:
    folder = sharded(made / "qwen3", tmp_path / "sharded")
    model = scripts.load_weights.load(folder)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.lm_head.weight.dtype == torch.bfloat16
    assert scripts.load_weights.difference(model, folder) == 0
    scripts.train.save(model.float(), folder, tmp_path / "saved")
    assert "lm_head.weight" not in load_file(tmp_path / "saved" / "model.safetensors")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert saved.dtype == torch.float32
    other = sharded(made / "qwen3", tmp_path / "other", torch.ones(1024, 128, dtype=torch.bfloat16))
    with pytest.raises(scripts.problems.UserError, match=r"lm_head\.weight differs from the embedding"):
        scripts.load_weights.load(other)


@pytest.fixture
def broken(made: Path, tmp_path: Path) -> Broken:
    """Makes a checkpoint with some of config.json changed, or its weights."""
    numbers = itertools.count()

    def make(weights: Callable[[dict[str, torch.Tensor]], object] | None = None, **config: object) -> Path:
        folder = shutil.copytree(made / "qwen3", tmp_path / f"broken{next(numbers)}")
        path = folder / "config.json"
        changed = {**json.loads(path.read_text()), **config}
        path.write_text(json.dumps({key: value for key, value in changed.items() if value is not None}))
        if weights:
            tensors = load_file(folder / "model.safetensors")
            weights(tensors)
            save_file(tensors, folder / "model.safetensors")
        return folder

    return make


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "llama"}, "model_type is 'llama'; this example runs 'qwen3' and 'qwen2'"),
        ({"hidden_size": None}, "hidden_size is None, expected a positive int"),
        ({"num_attention_heads": None}, "num_attention_heads is None, expected a positive int"),
        ({"num_attention_heads": "4"}, "num_attention_heads is '4', expected a positive int"),
        ({"head_dim": None}, "head_dim is None, expected a positive int"),
        ({"tie_word_embeddings": None}, "tie_word_embeddings is None, expected a bool"),
        ({"rope_theta": None}, "rope_theta is None, expected a positive float"),
        ({"num_key_value_heads": 3}, "4 query heads cannot share 3 kv heads"),
        ({"head_dim": 47}, "head_dim is 47, which cannot be rotated in halves"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; this example runs 'silu' alone"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "scaled positions are not supported"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "scaled positions are not supported"),
        ({"intermediate_size": 100}, r"has shape [128, 384], config.json asks for [128, 100]"),
    ],
)
def test_a_wrong_config_is_refused_by_file_and_key(
    config: dict[str, object], said: str, broken: Broken, scripts: ModuleType
) -> None:
    folder = broken(**config)
    with pytest.raises(scripts.problems.UserError) as caught:
        scripts.load_weights.load(folder)
    assert str(folder) in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w.pop("model.norm.weight"), "model.norm.weight is missing"),
        (lambda w: w.update(extra=torch.ones(1)), "unexpected tensor extra"),
        (lambda w: w.update({"model.norm.weight": torch.ones(127)}), "has shape [127], config.json asks for [128]"),
        (lambda w: w.update({"model.norm.weight": torch.ones(128, dtype=torch.int32)}), "has dtype I32, expected"),
        (lambda w: w.update({"lm_head.weight": w["model.norm.weight"].clone()}), "lm_head.weight has shape [128]"),
    ],
)
def test_wrong_tensors_are_refused_by_name(
    change: Callable[[dict[str, torch.Tensor]], object], said: str, broken: Broken, scripts: ModuleType
) -> None:
    folder = broken(change)
    with pytest.raises(scripts.problems.UserError) as caught:
        scripts.load_weights.load(folder)
    assert str(folder) in str(caught.value)
    assert said in str(caught.value)


def test_damaged_files_are_refused_by_name(broken: Broken, made: Path, tmp_path: Path, scripts: ModuleType) -> None:
    whole = (made / "qwen3" / "model.safetensors").read_bytes()
    for content in (whole[:-1000], whole + b"x", whole[:500], whole[:3], b"", b"\xff" * 100, b"\x02" + bytes(7) + b"[]"):
        folder = broken()
        (folder / "model.safetensors").write_bytes(content)
        with pytest.raises(scripts.problems.UserError, match=r"model\.safetensors: "):
            scripts.load_weights.load(folder)
    folder = sharded(made / "qwen3", tmp_path / "sharded")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.norm.weight"] = "model-00002-of-00002.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(scripts.problems.UserError, match=r"00002\.safetensors: model\.norm\.weight is missing"):
        scripts.load_weights.load(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"00002\.safetensors"):
        scripts.load_weights.load(folder)


# -- the data ------------------------------------------------------------------------------------------------------------


def row(scripts: ModuleType, output: str, instruction: str = "Say it.", number: int = 1) -> object:
    return scripts.prepare_data.Row(number, instruction, "", output)


def test_the_prompt_is_what_the_chat_template_renders(made: Path, scripts: ModuleType) -> None:
    """The tiny twins' chat templates say what Qwen's say about one question and its answer."""
    for kind in ("qwen3", "qwen2"):
        tokenizer = AutoTokenizer.from_pretrained(made / kind)
        asked = scripts.prepare_data.Row(1, "Sort.", "3 1", "1 3")
        messages = [{"role": "user", "content": "Sort.\n\n3 1"}]
        template = scripts.prepare_data.TEMPLATES[kind]
        options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
        assert template.prompt(asked) == tokenizer.apply_chat_template(messages, **options)
        ids, _ = scripts.prepare_data.encode(asked, scripts.prepare_data.load_tokenizer(made / kind), template)
        whole = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": "1 3"}], tokenize=False)
        assert tokenizer.decode(ids) + "\n" == whole
    qwen3, qwen2 = scripts.prepare_data.TEMPLATES["qwen3"], scripts.prepare_data.TEMPLATES["qwen2"]
    assert qwen3.prompt(row(scripts, "")) == (
        "<|im_start|>user\nSay it.<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    assert qwen2.prompt(row(scripts, "")) == (
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nSay it.<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_loss_covers_the_answer_and_one_end(made: Path, scripts: ModuleType) -> None:
    tokenizer = scripts.prepare_data.load_tokenizer(made / "qwen3")
    end, pad = tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")
    template = scripts.prepare_data.TEMPLATES["qwen3"]
    for output in ("12", "\n\nyes", " a-b ", "naïve ✓"):
        ids, labels = scripts.prepare_data.encode(row(scripts, output), tokenizer, template)
        answer = [label for label in labels if label != -100]
        prompt = tokenizer.encode(template.prompt(row(scripts, ""))).ids
        assert ids == prompt + answer
        assert tokenizer.decode(answer, skip_special_tokens=False) == output + "<|im_end|>"
        assert answer.count(end) == 1
        assert pad not in ids


def test_rows_that_cannot_be_used_are_counted_and_named(
    made: Path, scripts: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = scripts.prepare_data.load_tokenizer(made / "qwen3")
    rows = [
        row(scripts, "yes", number=1),
        row(scripts, " \n", number=2),
        row(scripts, "y", "x " * 9000, number=3),
        row(scripts, "done<|im_end|>", number=4),
        row(scripts, "z " * 9000, number=5),
    ]
    kept = scripts.prepare_data.encode_all(rows, tokenizer, scripts.prepare_data.TEMPLATES["qwen3"], 512)
    assert [(e.row.number, len(e.ids)) for e in kept] == [(1, len(kept[0].ids)), (5, 512)]
    assert capsys.readouterr().out.splitlines() == [
        "Dropped 1 rows with an empty answer: 2",
        "Dropped 1 rows whose answer lies beyond 512 tokens: 3",
        "Dropped 1 rows that hold a chat token: 4",
        "Cut 1 rows to 512 tokens: 5",
    ]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", '[{"instruction": "a", "output": "b"}, {"instruction": "c"}]', "row 2 has no text 'output'"),
        ("a.json", '[{"instruction": "a", "output": 5}]', "row 1 has no text 'output' (it is 5)"),
        ("a.json", '[{"instruction": "a", "input": null, "output": "b"}]', "row 1 has no text 'input'"),
        ("a.json", '[{"instruction": "a", "output": "b\\ud800"}]', "row 1: 'output' holds half a character"),
        ("a.json", "[1]", "row 1 is no object"),
        ("a.json", "{}", "expected a list of rows"),
        ("a.json", '[\n{"instruction": }]', "a.json:2: not JSON"),
        ("a.json", "[]", "0 usable rows are too few"),
        ("a.jsonl", '{"instruction": "a", "output": "b\u2028"}\n{oops', "a.jsonl:2: not JSON"),
        ("a.jsonl", '{"instruction": "a", "output": "b"}\n\n["x"]', "row 2 is no object"),
        ("a.parquet", "PAR1", "a.parquet"),
    ],
)
def test_bad_data_is_refused_by_file_and_row_and_nothing_is_written(
    name: str,
    content: str,
    said: str,
    made: Path,
    tmp_path: Path,
    scripts: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    options = ["--data", str(tmp_path / name), "--model", str(made / "qwen3"), "--runs", str(tmp_path / "runs")]
    monkeypatch.setattr(sys, "argv", ["prepare_data.py", *options])
    with pytest.raises(scripts.problems.UserError) as caught:
        scripts.prepare_data.main()
    assert name in str(caught.value)
    assert said in str(caught.value)
    assert list((tmp_path / "runs").iterdir()) == []


def test_folders_hold_one_json_file_or_parquet(made: Path, tmp_path: Path, scripts: ModuleType) -> None:
    rows = json.loads((made / "data.json").read_text())[:7]
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = scripts.prepare_data.read_rows(str(tmp_path / "one"), None)
    assert [r.output for r in found] == [r["output"] for r in rows]
    (tmp_path / "one" / "b.json").write_text("[]")
    with pytest.raises(scripts.problems.UserError, match="this has 2"):
        scripts.prepare_data.read_rows(str(tmp_path / "one"), None)
    with pytest.raises(scripts.problems.UserError, match="no such file or folder"):
        scripts.prepare_data.read_rows(str(tmp_path / "none.json"), None)


def test_a_tokenizer_without_the_chat_tokens_is_refused(broken: Broken, scripts: ModuleType) -> None:
    path = broken() / "tokenizer.json"
    path.write_text(path.read_text().replace("<|im_end|>", "<|other|>"))
    with pytest.raises(scripts.problems.UserError, match=r"tokenizer\.json: no token '<\|im_end\|>'"):
        scripts.prepare_data.load_tokenizer(path.parent)
    path.write_text("{")
    with pytest.raises(scripts.problems.UserError, match=r"tokenizer\.json: not a tokenizer"):
        scripts.prepare_data.load_tokenizer(path.parent)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        scripts.prepare_data.load_tokenizer(path.parent)


def test_an_output_folder_is_replaced_whole_and_never_with_other_peoples_files(tmp_path: Path, scripts: ModuleType) -> None:
    out = tmp_path / "out"
    for text in ("first", "second"):
        with scripts.folders.whole(out, {"a"}) as folder:
            (folder / "a").write_text(text)
    with pytest.raises(scripts.problems.UserError, match="cannot be written"), scripts.folders.whole(out, {"a"}) as folder:
        (folder / "missing" / "a").write_text("third")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert (out / "a").read_text() == "second"
    (out / "thesis.tex").touch()
    with pytest.raises(scripts.problems.UserError, match=r"holds thesis\.tex, which would be lost"):
        scripts.folders.check_output(out, {"a"})


# -- training ------------------------------------------------------------------------------------------------------------


def train(made: Path, out: Path, *options: str, folder: Path = EXAMPLE) -> list[str]:
    """Runs train.py; returns each step's loss as written, to the last bit."""
    paths = ["--model", str(made / "qwen3"), "--prepared", str(made / "prepared"), "--out", str(out)]
    losses = out.with_name(out.name + ".losses")
    done = run("train.py", *paths, "--losses-out", str(losses), "--no-eval", *options, folder=folder)
    assert "Training Complete!" in done.stdout, done.stderr
    return losses.read_text().split()


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_twenty_steps_give_the_losses_of_local_torch_to_the_bit(optimizer: str, made: Path, tmp_path: Path) -> None:
    """As a person would: copy the files, change the import line, run both."""
    for script in EXAMPLE.glob("*.py"):
        shutil.copy(script, tmp_path)
    for name in ("model.py", "train.py"):
        source = (tmp_path / name).read_text()
        assert source.count("import gt as torch\n") == 1
        (tmp_path / name).write_text(source.replace("import gt as torch\n", "import torch\n"))
    options = ["--max-steps", "20", "--batch-size", "4", "--accumulate", "2", "--lr", "1e-3", "--optimizer", optimizer]
    remote = train(made, tmp_path / "remote", *options)
    assert len(remote) == 20
    assert remote == train(made, tmp_path / "local", *options, folder=tmp_path)
    saved = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("remote", "local")]
    assert saved[0] == saved[1]


def test_a_saved_checkpoint_is_one_for_transformers(made: Path, tmp_path: Path, scripts: ModuleType) -> None:
    """Identical logits, the tokenizer, and a text that ends where the answer does."""
    out = tmp_path / "tuned"
    train(made, out, "--max-steps", "60", "--batch-size", "16", "--lr", "3e-3")
    model = scripts.load_weights.load(out)
    assert scripts.load_weights.difference(model, out) == 0
    saved, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    prompt = scripts.prepare_data.TEMPLATES["qwen3"].prompt(row(scripts, "", "Add 2 and 3."))
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    text = saved.generate(ids, max_new_tokens=32, do_sample=False)[0, ids.shape[1] :].tolist()
    end, pad = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert text[-1] == end
    assert len(text) < 32
    (answer,) = scripts.train.answers(model, ids.tolist(), pad, end)
    assert [*answer, end] == text


def test_accumulation_is_one_big_batch(made: Path, scripts: ModuleType) -> None:
    """Eight rows at once and one after another: loss and gradients, divided by the targets of all."""
    rows = scripts.train.Rows.open(made / "prepared" / "train", 1024)
    found = []
    for size in (8, 1):
        model = scripts.load_weights.load(made / "qwen3")
        arrays = [rows.batch(np.arange(start, start + size), pad=0) for start in range(0, 8, size)]
        found.append(scripts.train.accumulate(model, arrays, bf16=False).item())
        found.append(torch.cat([p.grad.flatten().cpu() for p in model.parameters()]))
    assert found[0] == pytest.approx(found[2], rel=3e-7)
    assert (found[1] - found[3]).abs().max() <= 1e-6 * found[1].abs().max()


@pytest.mark.parametrize("change", ["", "import gt as torch"])
def test_a_full_disk_is_told_in_one_line_and_leaves_nothing(change: str, made: Path, tmp_path: Path) -> None:
    """Files may not grow beyond 1 MiB; the checkpoint would be 4."""
    for script in EXAMPLE.glob("*.py"):
        (tmp_path / script.name).write_text(script.read_text().replace(change or "\0", "import torch"))
    command = f"ulimit -f 1024; exec {sys.executable} {tmp_path}/train.py --no-eval --max-steps 1 --runs {tmp_path}/runs"
    paths = f"--model {made}/qwen3 --prepared {made}/prepared"
    done = subprocess.run(["bash", "-c", f"{command} {paths}"], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 1
    assert f"{tmp_path}/runs/qwen3-tuned: the weights cannot be written: " in done.stderr
    assert done.stderr.count("\n") == 1
    assert list((tmp_path / "runs").iterdir()) == []


def test_the_learning_rate_warms_up_and_falls_to_a_tenth(scripts: ModuleType) -> None:
    rates = [scripts.train.schedule(step, 110, 10) for step in range(111)]
    assert rates[:11] == [*(step / 10 for step in range(1, 11)), 1.0]
    assert rates[60] == pytest.approx(0.55)
    assert rates[110] == pytest.approx(0.1)
    assert rates[35] == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi / 4)))
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_rows_prepared_for_another_model_are_refused(made: Path, tmp_path: Path, scripts: ModuleType) -> None:
    with pytest.raises(scripts.problems.UserError, match="prepared for another model"):
        scripts.train.Rows.open(made / "prepared" / "train", 100)
    copy = shutil.copytree(made / "prepared" / "train", tmp_path / "copy")
    np.save(copy / "offsets.npy", np.array([0, 7]))
    with pytest.raises(scripts.problems.UserError, match="do not belong together"):
        scripts.train.Rows.open(copy, 1024)


# -- the pipeline --------------------------------------------------------------------------------------------------------

PRINTED = [
    "Step 1: Loading weights from HuggingFace...",
    "Model loaded. Vocab size: 1024",
    "Converting weights to GT format...",
    "Weight conversion complete!",
    "Forward pass verification PASSED",
    "Step 2: Preparing training data...",
    "Dataset size: 60 examples",
    "Tokenization complete!",
    "Step 3: Training model...",
    "Epoch 1/1",
    "  Batch 0/5 | Loss: ",
    "  Batch 4/5 | Loss: ",
    "Training Complete!",
]


def test_the_pipeline_says_what_it_does_in_order(made: Path, tmp_path: Path) -> None:
    paths = ["--model", str(made / "qwen3"), "--data", str(made / "data.json"), "--runs", "runs"]
    options = ["--rows", "60", "--held-out=10", "--batch-size", "10", "--epochs=1", "--bf16"]
    log = {"GT_WORKER_BATCH_SIZE": "10", "GT_INSTRUCTION_LOG": "debug.log"}
    done = run("train.sh", *paths, *options, cwd=tmp_path, **log)
    assert done.returncode == 0, done.stderr
    lines = iter(done.stdout.splitlines())
    for expected in PRINTED:
        assert any(line.startswith(expected) for line in lines), f"{expected!r} not printed, or not in its place"
    assert (tmp_path / "debug.log").stat().st_size > 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["data-qwen3", "qwen3-tuned"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--epoch", "3"], "train.sh: unrecognized arguments: --epoch 3 (--help lists what there is)"),
        (["--lr", "fast"], "train.sh: argument --lr: fast is not a number from 0 up (--help lists what there is)"),
        (["--model"], "train.sh: argument --model: expected one argument (--help lists what there is)"),
        (
            ["--batch-size=0"],
            "train.sh: argument --batch-size: 0 is not a whole number from 1 up (--help lists what there is)",
        ),
    ],
)
def test_wrong_arguments_are_told_at_once_in_one_line(arguments: list[str], said: str) -> None:
    done = run("train.sh", *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said + "\n")


def test_sharding_is_refused_until_it_is_supported() -> None:
    done = run("train.sh", GT_CONFIG="sharding.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "GT_CONFIG: sharding files are not supported yet; unset it to run on one worker\n"


@pytest.mark.parametrize("script", ["load_weights.py", "prepare_data.py"])
def test_without_a_network_it_says_in_one_line_what_to_do(script: str, made: Path, tmp_path: Path) -> None:
    model = "Qwen/Qwen3-1.7B" if script == "load_weights.py" else str(made / "qwen3")
    done = run(script, "--model", model, "--data", "tatsu-lab/alpaca", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "cannot be downloaded" in done.stderr
    assert "connect to the network" in done.stderr


def test_ctrl_c_ends_training_in_one_line_and_leaves_nothing_half_written(made: Path, tmp_path: Path) -> None:
    paths = ["--model", str(made / "qwen3"), "--prepared", str(made / "prepared"), "--out", str(tmp_path / "out")]
    command = [sys.executable, str(EXAMPLE / "train.py"), *paths, "--no-eval", "--log-every", "1", "--epochs", "1000"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env=ENVIRONMENT, **pipes) as process:
        while "Batch 2/" not in process.stdout.readline():
            pass
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.stderr.read() == "interrupted\n"
        assert process.wait(30) != 0
    assert list(tmp_path.iterdir()) == []
