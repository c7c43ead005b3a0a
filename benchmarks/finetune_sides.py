"""The sides of `benchmarks.finetune`: the same fine-tune, each in a process of its own that makes a step for every turn.

All train the same rows from the same weights with fused AdamW (betas 0.9 and 0.95, no weight decay, a constant rate), clip
gradients to a norm of 1, and fetch the loss of every step. What only one side has:

- GT: `examples/qwen3`'s model, loss and optimizer, on the worker, in the calls of train.py.
- plain PyTorch: Qwen3ForCausalLM of `transformers` with its own loss, attention "sdpa", no cache; for LoRA wrapped by PEFT.
- SFTTrainer: the same model in TRL, given token ids and labels. Not its defaults: `use_cpu`, fp32 instead of bf16 autocast,
  no activation checkpointing, no logging, no saving, rows in their order. Its own loss (`loss_type="nll"`) makes the logits
  in tiles and never keeps all of them, and makes them again in the backward pass; it counts entropy and accuracy besides.
  On a CPU it makes those of all tokens, where on a GPU it makes only those of targets.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks.presets import Preset, build_config, load_example, load_model
from benchmarks.processes import peak_resident_bytes

IGNORED = -100
ANSWERS = (0.12, 0.17, 0.23, 0.28)
"""The share of targets in the rows of a batch, in turn: about that of Alpaca, a fifth in all."""
LR, RANK, ALPHA = 1e-4, 16, 32


@dataclass(frozen=True)
class Job:
    """A fine-tune. `answers`: only the ends of the rows are targets. `steps`: how many there will be at most."""

    shapes: Preset
    lora: bool = False
    answers: bool = False
    precision: str = "fp32"
    steps: int = 7

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        found = json.loads(text)
        return cls(**found | {"shapes": Preset(**found["shapes"])})

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Token ids and labels of a step, int64 [rows, tokens]; a token that is no target has the label IGNORED."""
        rows, tokens = self.shapes.batch, self.shapes.tokens
        ids = np.random.default_rng(step).integers(0, self.shapes.vocabulary, (rows, tokens))
        labels = ids.copy()
        for row in range(rows):
            targets = round(ANSWERS[row % len(ANSWERS)] * tokens) if self.answers else tokens - 1
            labels[row, : tokens - targets] = IGNORED
        return ids, labels


@dataclass(frozen=True)
class Step:
    """What a side says of a step. Bytes: the most so far of the process that holds the tensors, of its live tensors (0: not
    known), and of the client's process, if that is another."""

    seconds: float
    loss: float
    peak_rss: int
    peak_tensors: int = 0
    client_rss: int = 0


class Turns:
    """This side's turns: a line in begins one, a line out ends it."""

    def __init__(self, peaks: Callable[[], dict[str, int]]) -> None:
        self.peaks = peaks
        self.answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
        self.began = 0.0

    def begin(self) -> bool:
        """Wait for a turn; returns False if there are no more."""
        line = sys.stdin.readline()
        self.began = time.perf_counter()
        return bool(line)

    def end(self, loss: float) -> None:
        seconds = time.perf_counter() - self.began
        print(json.dumps(asdict(Step(seconds, loss, **self.peaks()))), file=self.answers, flush=True)


# -- GT --------------------------------------------------------------------------------------------------------------------


def gt(job: Job) -> None:
    """As train.py does it."""
    _gt(job, load_example("train"))


def gt_full_logits(job: Job) -> None:
    """The same with the logits of all tokens, as train.py was before it had loss.py."""
    import torch  # late import: train.py comes first

    def loss_sum(model: Any, batch: Any, autocast: bool) -> Any:
        ids, targets = (torch.from_numpy(array).to("remote") for array in (batch.ids, batch.targets))
        logits = model(ids).float().flatten(0, 1)
        return torch.nn.functional.cross_entropy(logits, targets.flatten(), ignore_index=IGNORED, reduction="sum")

    train = load_example("train")
    train.loss_sum = loss_sum
    _gt(job, train)


def _gt(job: Job, train: Any) -> None:
    import gt  # late import, also below: the other sides do without

    lora = ["--lora", f"--lora-rank={RANK}", f"--lora-alpha={ALPHA}"] if job.lora else []
    given = train.parse(None, told=[f"--lr={LR}", f"--precision={job.precision}", *lora])
    model = _gt_model(job)
    if job.lora:
        load_example("lora").add_adapter(model, train.as_lora(given))
    stepper = train.Stepper(train.trained(model), given)

    def peaks() -> dict[str, int]:
        stats = gt.debug.stats()
        return {
            "peak_rss": stats.peak_rss_bytes,
            "peak_tensors": stats.peak_tensor_bytes,
            "client_rss": peak_resident_bytes(),
        }

    def step(number: int) -> float:
        ids, labels = job.batch(number)
        targets = np.full_like(labels, IGNORED)
        targets[:, :-1] = labels[:, 1:]
        loss = train.accumulate(model, [load_example("prepared").Batch(ids, targets)], autocast=False)
        norm = stepper.step(1.0)
        return float(train.torch.stack([loss, norm]).tolist()[0])

    _in_turns(step, peaks)


def _gt_model(job: Job) -> Any:
    import torch

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16 if job.precision == "bf16" else torch.float32)
    with torch.device("remote"):
        model = load_model().Qwen3(build_config(job.shapes))
    torch.set_default_dtype(torch.float32)
    return model


def _in_turns(step: Callable[[int], float], peaks: Callable[[], dict[str, int]]) -> None:
    turns, number = Turns(peaks), 0
    while turns.begin():
        turns.end(step(number))
        number += 1


# -- PyTorch and TRL -------------------------------------------------------------------------------------------------------


def plain(job: Job) -> None:
    """A loop that a person would write."""
    import torch

    model = _transformers_model(job)
    if job.lora:
        from peft import get_peft_model

        model = get_peft_model(model, _peft_config())
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LR, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    model.train()

    def step(number: int) -> float:
        ids, labels = map(torch.from_numpy, job.batch(number))
        loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.item())

    _in_turns(step, lambda: {"peak_rss": peak_resident_bytes()})


def sft(job: Job) -> None:
    """TRL's SFTTrainer, which waits for its turns at the end of each step."""
    from transformers import PrinterCallback, TrainerCallback
    from trl import SFTTrainer

    turns = Turns(lambda: {"peak_rss": peak_resident_bytes()})

    class Trainer(SFTTrainer):
        loss = 0.0

        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().training_step(*args, **kwargs)
            self.loss = float(loss.item())
            return loss

    class Waiting(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = not turns.begin()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            turns.end(trainer.loss)
            control.should_training_stop = not turns.begin()

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=_transformers_model(job),
            args=_sft_config(job, folder),
            train_dataset=_dataset(job),
            processing_class=_tokenizer(),
            peft_config=_peft_config() if job.lora else None,
            callbacks=[Waiting()],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()


def _sft_config(job: Job, folder: str) -> Any:
    from trl import SFTConfig

    return SFTConfig(
        folder, use_cpu=True, bf16=False, gradient_checkpointing=False, packing=False, max_length=job.shapes.tokens,
        per_device_train_batch_size=job.shapes.batch, max_steps=job.steps, train_sampling_strategy="sequential",
        learning_rate=LR, lr_scheduler_type="constant", optim="adamw_torch_fused", adam_beta2=0.95, weight_decay=0.0,
        max_grad_norm=1.0, report_to="none", logging_strategy="no", save_strategy="no", eval_strategy="no",
        disable_tqdm=True,
    )  # fmt: skip


def _dataset(job: Job) -> Any:
    from datasets import Dataset

    ids, labels = zip(*(job.batch(number) for number in range(job.steps)), strict=True)
    return Dataset.from_dict({"input_ids": np.concatenate(ids).tolist(), "labels": np.concatenate(labels).tolist()})


def _tokenizer() -> Any:
    """One that is never asked: the rows are token ids already."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<end>": 0}, unk_token="<end>")), eos_token="<end>", pad_token="<end>"
    )


def _transformers_model(job: Job) -> Any:
    """Qwen3ForCausalLM with the weights that GT's side draws."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = asdict(build_config(job.shapes))
    del config["qkv_bias"], config["qk_norm"]
    model = Qwen3ForCausalLM(Qwen3Config(**config, attn_implementation="sdpa"))
    torch.manual_seed(0)
    model.load_state_dict(load_model().Qwen3(build_config(job.shapes)).state_dict())
    return model


def _peft_config() -> Any:
    from peft import LoraConfig

    return LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")


SIDES = {"gt": gt, "gt-full-logits": gt_full_logits, "plain": plain, "sft": sft}

if __name__ == "__main__":
    SIDES[sys.argv[1]](Job.from_json(sys.argv[2]))
