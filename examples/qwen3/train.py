"""Step 3: fine-tune on the prepared rows; cross-entropy on the answers only.

python train.py --model FOLDER_OR_NAME --prepared FOLDER [--out FOLDER]
"""

from __future__ import annotations

from problems import UserError, read_json

# isort: split
import gt as torch  # first: whether this says gt or torch decides where the other files run

# isort: split
import argparse
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
from chat import PAD, checksum, load_tokenizer
from folders import BESIDE_WEIGHTS, CHECKPOINT, RECORD, check_output, resolve, shown, whole
from load_weights import entries, load
from model import Qwen3
from options import parse
from prepare_data import IGNORED, Row
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from safetensors import SafetensorError
from tokenizers import Tokenizer

F = torch.nn.functional
PAD_TO = 16
"""Batches are padded to a multiple of this many tokens, to limit the number of shapes."""
LONGEST_ANSWER = 32
"""Maximum tokens of a generated answer."""


@dataclass(frozen=True)
class Rows:
    """Prepared rows, memory-mapped. Row i is ids[offsets[i]:offsets[i + 1]]."""

    ids: np.ndarray
    labels: np.ndarray
    offsets: np.ndarray

    @classmethod
    def open(cls, folder: Path, vocabulary: int) -> Rows:
        """Raises UserError or FileNotFoundError."""
        arrays = {}
        for path in (folder / "ids.npy", folder / "labels.npy", folder / "offsets.npy"):
            try:
                arrays[path.stem] = np.load(path, mmap_mode="r")
            except ValueError as error:
                raise UserError(f"{path}: {error}; prepare the data again") from None
        rows = cls(**arrays)
        if len(rows.ids) != rows.offsets[-1] or len(rows.labels) != rows.offsets[-1]:
            raise UserError(f"{folder}: ids, labels and offsets do not match; prepare the data again")
        if rows.ids.max() >= vocabulary:
            raise UserError(f"{folder}: prepared for another model: token {rows.ids.max()} of a vocabulary of {vocabulary}")
        return rows

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def tokens(self, chosen: np.ndarray) -> int:
        """Number of tokens in rows, without padding."""
        return int((self.offsets[chosen + 1] - self.offsets[chosen]).sum())

    def prompts(self) -> list[list[int]]:
        """The tokens before each row's answer."""
        ends = [start + int((self.labels[start:] != IGNORED).argmax()) for start in self.offsets[:-1]]
        return [self.ids[start:end].tolist() for start, end in zip(self.offsets[:-1], ends, strict=True)]

    def batch(self, chosen: np.ndarray, pad: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids and next-token targets of rows, int64 [rows, tokens], right-padded."""
        lengths = [int(self.offsets[i + 1] - self.offsets[i]) for i in chosen]
        width = math.ceil(max(lengths) / PAD_TO) * PAD_TO
        ids = np.full((len(chosen), width), pad, np.int64)
        targets = np.full((len(chosen), width), IGNORED, np.int64)
        for row, (i, length) in enumerate(zip(chosen, lengths, strict=True)):
            start = int(self.offsets[i])
            ids[row, :length] = self.ids[start : start + length]
            targets[row, : length - 1] = self.labels[start + 1 : start + length]
        return ids, targets


def loss_sum(model: Qwen3, ids: np.ndarray, targets: np.ndarray, bf16: bool) -> torch.Tensor:
    """Sum of -log p(target) over the targets, float32."""
    device = next(model.parameters()).device
    x, y = torch.from_numpy(ids).to(device), torch.from_numpy(targets).to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        logits = model(x)
    return F.cross_entropy(logits.float().flatten(0, 1), y.flatten(), ignore_index=IGNORED, reduction="sum")


def schedule(step: int, steps: int, warmup: int) -> float:
    """Learning-rate factor: linear warm-up, then cosine decay to a tenth."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress))


# -- evaluation ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def evaluate(model: Qwen3, rows: Rows, pad: int, batch_size: int) -> float:
    """Mean loss per target over all rows."""
    total, count = 0.0, 0
    for start in range(0, len(rows), batch_size):
        ids, targets = rows.batch(np.arange(start, min(start + batch_size, len(rows))), pad)
        total += float(loss_sum(model, ids, targets, bf16=False).item())
        count += int((targets != IGNORED).sum())
    if not math.isfinite(total):
        raise UserError(f"the held-out loss is {total / count}: the weights give no finite logits")
    return total / count


@torch.no_grad()
def answers(model: Qwen3, prompts: list[list[int]], pad: int, end: int) -> list[list[int]]:
    """Greedy answers to a batch of prompts. Tokens right of a position are padding, and the causal mask hides them."""
    device = next(model.parameters()).device
    longest = max(map(len, prompts))
    width = math.ceil((longest + LONGEST_ANSWER) / PAD_TO) * PAD_TO
    ids = np.full((len(prompts), width), pad, np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = prompt
    x = torch.from_numpy(ids).to(device)
    rows = torch.arange(len(prompts), device=device)
    ends = torch.tensor([len(p) for p in prompts], device=device)
    for step in range(LONGEST_ANSWER):
        logits = model(x)[rows, ends - 1 + step]
        x[rows, ends + step] = logits.argmax(-1)
        if step % 8 == 7 and bool((x == end).sum(-1).ge(_ends_in(prompts, end, device)).all()):
            break
    made = x.cpu().numpy()
    return [_until(made[row, len(p) : len(p) + LONGEST_ANSWER].tolist(), end) for row, p in enumerate(prompts)]


def _ends_in(prompts: list[list[int]], end: int, device: torch.device) -> torch.Tensor:
    """How often `end` occurs in each conversation once its answer is complete."""
    return torch.tensor([prompt.count(end) + 1 for prompt in prompts], device=device)


def _until(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end)] if end in ids else ids


@dataclass(frozen=True)
class HeldOut:
    """The held-out rows, the tokenizer that reads answers, and the token that ends them."""

    rows: list[Row]
    data: Rows
    tokenizer: Tokenizer
    end: int

    @classmethod
    def open(cls, prepared: Path, model: Path, vocabulary: int) -> HeldOut:
        """Raises UserError or FileNotFoundError."""
        chat, tokenizer = read_json(prepared / "chat.json"), load_tokenizer(model)
        if chat["tokenizer"] != checksum(model):
            raise UserError(f"{prepared}: prepared for another model: its tokenizer is not that of {model}")
        folder = prepared / "held_out"
        rows = [Row(**row) for row in json.loads((folder / "rows.json").read_text(encoding="utf-8"))]
        return cls(rows, Rows.open(folder, vocabulary), tokenizer, tokenizer.token_to_id(chat["end"]))

    def exact(self, model: Qwen3, pad: int, batch_size: int) -> tuple[float, list[str]]:
        """Share of answers that match to the character, and the answers."""
        prompts = self.data.prompts()
        made: list[str] = []
        for start in range(0, len(prompts), batch_size):
            found = answers(model, prompts[start : start + batch_size], pad, self.end)
            made += [self.tokenizer.decode(ids) for ids in found]
        matches = sum(a == r.output for a, r in zip(made, self.rows, strict=True))
        return matches / len(self.rows), made

    def report(self, when: str, model: Qwen3, pad: int, batch_size: int) -> list[str]:
        loss = evaluate(model, self.data, pad, batch_size)
        share, made = self.exact(model, pad, batch_size)
        print(f"Held-out {when} training: loss {loss:.4f}, exact match {share:.0%} of {len(self.rows)}", flush=True)
        return made


# -- training ------------------------------------------------------------------------------------------------------------


class Reporter:
    """Prints a line every few batches; on a terminal also a progress bar below them.

    The loss is fetched when it is shown, not every step. Speed and ETA exclude the first step, which has one-time costs;
    tokens exclude padding.
    """

    def __init__(self, epochs: int, batches: int, steps: int, every: int) -> None:
        self.epochs, self.batches, self.steps, self.every = epochs, batches, steps, every
        self.began = self.steady = time.perf_counter()
        self.tokens = 0
        self.console = Console(highlight=False, markup=False, soft_wrap=True)
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
        self.progress = Progress(*columns, console=self.console, transient=True)
        self.task = self.progress.add_task("", total=steps)
        if self.console.is_terminal:
            self.progress.start()

    def step(self, step: int, tokens: int, loss: Callable[[], float]) -> None:
        """`tokens`: of this step; `loss` fetches its loss."""
        epoch, batch = divmod(step, self.batches)
        if batch == 0:
            self.console.print(f"Epoch {epoch + 1}/{self.epochs}")
        self.tokens += tokens if step else 0
        if batch % self.every and batch != self.batches - 1 and step != self.steps - 1:
            return
        value, now = loss(), time.perf_counter()
        told = f"Loss: {value:.4f} | Time: {now - self.began:.2f}s"
        if step == 0:
            self.steady = now
        else:
            left = (now - self.steady) / step * (self.steps - 1 - step)
            told += f" | {self.tokens / (now - self.steady):,.0f} tokens/s | ETA: {left:.0f}s"
        self.console.print(f"  Batch {batch}/{self.batches} | {told}")
        self.progress.update(self.task, completed=step + 1, description=told)

    def close(self) -> None:
        if self.console.is_terminal:
            self.progress.stop()


class Course:
    """The losses of the steps and their gradient norms, fetched several steps at a time."""

    def __init__(self, batches: int) -> None:
        self.batches = batches
        self.losses: list[float] = []
        self.waiting: list[torch.Tensor] = []

    def add(self, loss: torch.Tensor, norm: torch.Tensor) -> None:
        self.waiting += [loss, norm]

    def look(self) -> float:
        """The last loss, by one fetch of all pending values. Raises UserError for the first non-finite step."""
        found = torch.stack(self.waiting).tolist()
        self.waiting.clear()
        for loss, norm in zip(found[::2], found[1::2], strict=True):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                epoch, batch = divmod(len(self.losses), self.batches)
                raise UserError(
                    f"epoch {epoch + 1}, batch {batch}: loss {loss}, gradient norm {norm}; nothing was saved."
                    " Try a lower --lr, a longer --warmup or --clip 1"
                )
            self.losses.append(loss)
        return self.losses[-1]


def batches(rows: Rows, given: argparse.Namespace) -> Iterator[tuple[int, list[np.ndarray]]]:
    """(step, micro-batches of row numbers), epoch by epoch, each in its own order drawn by the seed."""
    random = np.random.default_rng(given.seed)
    group = given.batch_size * given.accumulate
    step = 0
    for _ in range(given.epochs):
        order = random.permutation(len(rows))
        for start in range(0, len(order), group):
            chosen = order[start : start + group]
            yield step, [chosen[i : i + given.batch_size] for i in range(0, len(chosen), given.batch_size)]
            step += 1


def make_optimizer(model: Qwen3, given: argparse.Namespace) -> torch.optim.Optimizer:
    if given.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), lr=given.lr, momentum=0.9, weight_decay=given.weight_decay)
    return torch.optim.AdamW(
        model.parameters(), lr=given.lr, betas=(0.9, 0.95), eps=given.eps, weight_decay=given.weight_decay, fused=True
    )


def accumulate(model: Qwen3, micro_batches: list[tuple[np.ndarray, np.ndarray]], bf16: bool) -> torch.Tensor:
    """Accumulate the gradients of one batch; returns its loss. Each micro-batch is divided by the batch's target count."""
    count = sum(int((targets != IGNORED).sum()) for _, targets in micro_batches)
    parts = []
    for ids, targets in micro_batches:
        loss = loss_sum(model, ids, targets, bf16) / count
        loss.backward()
        parts.append(loss.detach())
    return sum(parts[1:], parts[0])


def train(model: Qwen3, rows: Rows, pad: int, given: argparse.Namespace) -> list[float]:
    """Train; returns each step's loss. Raises UserError if a loss or the final weights are not finite."""
    per_epoch = math.ceil(len(rows) / (given.batch_size * given.accumulate))
    steps = min(given.epochs * per_epoch, given.max_steps or sys.maxsize)
    optimizer = make_optimizer(model, given)
    warmup = max(1, int(given.warmup * steps))
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step, steps, warmup))
    reporter, course = Reporter(given.epochs, per_epoch, steps, given.log_every), Course(per_epoch)
    try:
        for step, micro_batches in batches(rows, given):
            if step == steps:
                break
            loss = accumulate(model, [rows.batch(chosen, pad) for chosen in micro_batches], given.bf16)
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), given.clip or math.inf)
            optimizer.step()
            optimizer.zero_grad()
            rates.step()
            course.add(loss, norm)
            reporter.step(step, sum(map(rows.tokens, micro_batches)), course.look)
    finally:
        reporter.close()
    if not torch.nn.utils.get_total_norm(model.parameters()).isfinite():  # no loss shows the effect of the last step
        raise UserError("the weights are not finite after the last step; nothing was saved. Try a lower --lr")
    return course.losses


def save(model: Qwen3, source: Path, out: Path, made_of: dict[str, str]) -> None:
    """Write a checkpoint folder that `transformers` loads: all or nothing."""
    tensors = model.state_dict()
    if model.config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    config = read_json(source / "config.json")
    config.pop("torch_dtype", None)  # the older name of `dtype`
    config["dtype"] = str(model.lm_head.weight.dtype).removeprefix("torch.")
    save_file = torch.files.save_safetensors if hasattr(torch, "files") else safetensors.torch.save_file
    with whole(out, CHECKPOINT, made_of) as folder:
        try:
            save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        except (RuntimeError, SafetensorError) as error:
            raise UserError(f"{out}: the weights cannot be written: {' '.join(str(error).split())}") from error
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        for name in BESIDE_WEIGHTS:
            if (source / name).is_dir():
                shutil.copytree(source / name, folder / name)
            elif (source / name).exists():
                shutil.copyfile(source / name, folder / name)


def check_folders(given: argparse.Namespace, source: Path, made_of: dict[str, str]) -> None:
    """Check that the outputs can be written after training. Raises UserError or OSError."""
    float32 = 4 * sum(math.prod(entry.shape) for entry in entries(source).values())
    check_output(given.out, CHECKPOINT, made_of, float32)
    if given.losses_out:
        new = not given.losses_out.exists()
        given.losses_out.open("a").close()
        if new:
            given.losses_out.unlink()


def main() -> int:
    given = parse(__doc__, "train.py")
    print("Step 3: Training model...", flush=True)
    source = resolve(given.model, given.revision)
    prepared = read_json(given.prepared / RECORD)
    if "data" not in prepared:
        raise UserError(f"{given.prepared}: not a folder of prepared rows (--prepared)")
    made_of = given.made_of | {"data": str(prepared["data"])}
    check_folders(given, source, made_of)
    torch.manual_seed(given.seed)
    model = load(source).float()
    vocabulary = model.config.vocab_size
    rows = Rows.open(given.prepared / "train", vocabulary)
    held_out = HeldOut.open(given.prepared, source, vocabulary)
    pad = held_out.tokenizer.token_to_id(PAD)
    size = max(given.batch_size, 8)
    if not given.no_eval:
        held_out.report("before", model, pad, size)
    losses = train(model, rows, pad, given)
    save(model, source, given.out, made_of)
    print(f"Saved {shown(given.out)}")
    if given.losses_out:
        given.losses_out.write_text("".join(f"{loss.hex()}\n" for loss in losses))
    print("Training Complete!", flush=True)
    if not given.no_eval:
        made = held_out.report("after", model, pad, size)
        for row, answer in list(zip(held_out.rows, made, strict=True))[:3]:
            question = f"{row.instruction} {row.input}".rstrip()
            print(f"  {question}\n    -> {answer}   (expected: {row.output})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
