"""Step 3: fine-tune on the prepared rows; cross-entropy on the answers only.

python train.py --model FOLDER --data FOLDER --out FOLDER
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from load_weights import CheckpointError, load
from model import Qwen3
from prepare_data import END, IGNORED, TEMPLATES
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tokenizers import Tokenizer

import gt as torch

F = torch.nn.functional
PAD_TO = 16
"""Batches are padded to a multiple of this many tokens, so that few shapes occur."""
LONGEST_ANSWER = 32
"""Most tokens of a generated answer."""


@dataclass(frozen=True)
class Rows:
    """Prepared rows, mapped into memory. Row i is ids[offsets[i]:offsets[i + 1]]."""

    ids: np.ndarray
    labels: np.ndarray
    offsets: np.ndarray

    @classmethod
    def open(cls, folder: Path) -> Rows:
        return cls(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("ids", "labels", "offsets")))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def batch(self, chosen: np.ndarray, pad: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids and next-token targets of rows, int64 [rows, tokens], padded on the right."""
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
    """Factor of the learning rate: linear warm-up, then a cosine down to a tenth."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress))


# -- evaluation ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def evaluate(model: Qwen3, rows: Rows, pad: int, batch_size: int) -> float:
    """Mean loss of a target over all rows."""
    total, count = 0.0, 0
    for start in range(0, len(rows), batch_size):
        ids, targets = rows.batch(np.arange(start, min(start + batch_size, len(rows))), pad)
        total += float(loss_sum(model, ids, targets, bf16=False).item())
        count += int((targets != IGNORED).sum())
    return total / count


@torch.no_grad()
def answers(model: Qwen3, prompts: list[list[int]], pad: int, end: int) -> list[list[int]]:
    """Greedy answers to prompts, together. What lies to the right of a position is padding and cannot be seen."""
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
    """How often `end` stands in each conversation once its answer is complete."""
    return torch.tensor([prompt.count(end) + 1 for prompt in prompts], device=device)


def _until(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end)] if end in ids else ids


@dataclass(frozen=True)
class HeldOut:
    """The held-out rows, and the tokenizer that turns them into prompts."""

    rows: list[dict[str, str]]
    data: Rows
    tokenizer: Tokenizer
    kind: str

    def exact(self, model: Qwen3, pad: int, batch_size: int) -> tuple[float, list[str]]:
        """Share of answers that match to the character, and the answers."""
        end = self.tokenizer.token_to_id(END)
        template = TEMPLATES[self.kind]
        prompts = [self.tokenizer.encode(template.prompt(r), add_special_tokens=False).ids for r in self.rows]
        made: list[str] = []
        for start in range(0, len(prompts), batch_size):
            found = answers(model, prompts[start : start + batch_size], pad, end)
            made += [self.tokenizer.decode(ids) for ids in found]
        matches = sum(a == r["output"] for a, r in zip(made, self.rows, strict=True))
        return matches / len(self.rows), made

    def report(self, when: str, model: Qwen3, pad: int, batch_size: int) -> list[str]:
        loss = evaluate(model, self.data, pad, batch_size)
        share, made = self.exact(model, pad, batch_size)
        print(f"Held-out {when} training: loss {loss:.4f}, exact match {share:.0%} of {len(self.rows)}", flush=True)
        return made


# -- training ------------------------------------------------------------------------------------------------------------


class Reporter:
    """A progress bar on a terminal, plain lines elsewhere. Losses are fetched when they are shown, not every step."""

    def __init__(self, epochs: int, batches: int, every: int) -> None:
        self.epochs, self.batches, self.every = epochs, batches, every
        self.began = time.perf_counter()
        self.tokens = 0
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
        self.progress = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn())
        self.live = self.progress.console.is_terminal
        self.task = self.progress.add_task("training", total=epochs * batches)
        if self.live:
            self.progress.start()

    def epoch(self, number: int) -> None:
        if not self.live:
            print(f"Epoch {number + 1}/{self.epochs}", flush=True)

    def step(self, step: int, tokens: int, loss: Callable[[], float]) -> None:
        """`tokens` of this step; `loss` fetches its loss."""
        self.tokens += tokens
        batch = step % self.batches
        if batch % self.every and batch != self.batches - 1:
            return
        value, passed = loss(), time.perf_counter() - self.began
        rate = self.tokens / passed
        if self.live:
            said = f"epoch {step // self.batches + 1}/{self.epochs}  loss {value:.4f}  {rate:,.0f} tokens/s"
            self.progress.update(self.task, completed=step + 1, description=said)
            return
        left = passed / (step + 1) * (self.epochs * self.batches - step - 1)
        told = f"  Batch {batch}/{self.batches} | Loss: {value:.4f} | Time: {passed:.2f}s"
        print(f"{told} | {rate:,.0f} tokens/s | ETA: {left:.0f}s", flush=True)

    def close(self) -> None:
        if self.live:
            self.progress.stop()


def batches(rows: Rows, given: argparse.Namespace) -> Iterator[tuple[int, list[np.ndarray]]]:
    """(step, micro-batches of row numbers), epoch by epoch, each in an order of its own drawn by the seed."""
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
        return torch.optim.SGD(model.parameters(), lr=given.lr, momentum=0.9)
    return torch.optim.AdamW(model.parameters(), lr=given.lr, betas=(0.9, 0.95), weight_decay=given.weight_decay, fused=True)


def train(model: Qwen3, rows: Rows, pad: int, given: argparse.Namespace) -> list[torch.Tensor]:
    """Train; returns each step's loss."""
    per_epoch = math.ceil(len(rows) / (given.batch_size * given.accumulate))
    steps = min(given.epochs * per_epoch, given.max_steps or sys.maxsize)
    optimizer = make_optimizer(model, given)
    warmup = max(1, int(given.warmup * steps))
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step, steps, warmup))
    reporter = Reporter(given.epochs, per_epoch, given.log_every)
    losses: list[torch.Tensor] = []
    try:
        for step, micro_batches in batches(rows, given):
            if step == steps:
                break
            if step % per_epoch == 0:
                reporter.epoch(step // per_epoch)
            arrays = [rows.batch(chosen, pad) for chosen in micro_batches]
            targets = sum(int((y != IGNORED).sum()) for _, y in arrays)
            parts = []
            for ids, y in arrays:
                loss = loss_sum(model, ids, y, given.bf16) / targets
                loss.backward()
                parts.append(loss.detach())
            torch.nn.utils.clip_grad_norm_(model.parameters(), given.clip)
            optimizer.step()
            optimizer.zero_grad()
            rates.step()
            losses.append(sum(parts[1:], parts[0]))
            reporter.step(step, sum(ids.size for ids, _ in arrays), losses[-1].item)
    finally:
        reporter.close()
    return losses


def save(model: Qwen3, source: Path, out: Path) -> None:
    """Write a checkpoint folder that `transformers` loads: all of it or nothing."""
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    tensors = {k: v for k, v in model.state_dict().items() if k != "lm_head.weight" or not _tied(model)}
    if hasattr(torch, "files"):
        torch.files.save_safetensors(tensors, partial / "model.safetensors", {"format": "pt"})
    else:
        from safetensors.torch import save_file  # late import: the plain PyTorch way

        save_file(tensors, partial / "model.safetensors", {"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    config["dtype"] = str(next(model.parameters()).dtype).removeprefix("torch.")
    (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "generation_config.json"):
        if (source / name).exists():
            shutil.copyfile(source / name, partial / name)
    shutil.rmtree(out, ignore_errors=True)
    os.replace(partial, out)


def _tied(model: Qwen3) -> bool:
    return model.config.tie_word_embeddings


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", type=Path, required=True, help="checkpoint folder")
    add("--data", type=Path, required=True, help="folder that prepare_data.py wrote")
    add("--out", type=Path, help="where the trained checkpoint goes (default: it is not saved)")
    add("--epochs", type=int, default=3)
    add("--batch-size", type=int, default=2, help="rows of a micro-batch (default 2)")
    add("--accumulate", type=int, default=1, help="micro-batches of a step (default 1)")
    add("--optimizer", choices=["adamw", "sgd"], default="adamw")
    add("--lr", type=float, default=1e-5)
    add("--weight-decay", type=float, default=0.0)
    add("--clip", type=float, default=1.0, help="largest norm of the gradients")
    add("--warmup", type=float, default=0.05, help="share of the steps")
    add("--bf16", action="store_true", help="run the forward pass under bfloat16 autocast")
    add("--seed", type=int, default=0)
    add("--max-steps", type=int, help="stop after this many")
    add("--log-every", type=int, default=10, help="batches between two lines")
    add("--losses-out", type=Path, help="write every step's loss, one a line, to the last bit")
    add("--no-eval", action="store_true", help="leave the held-out rows alone")
    return parser.parse_args()


def main() -> int:
    given = arguments()
    print("Step 3: Training model...", flush=True)
    torch.manual_seed(given.seed)
    try:
        model = load(given.model).float()
        rows, held_rows = Rows.open(given.data / "train"), Rows.open(given.data / "held_out")
    except FileNotFoundError as error:
        sys.exit(f"{error.filename}: no such file")
    except (CheckpointError, ValueError) as error:
        sys.exit(str(error))
    tokenizer = Tokenizer.from_file(str(given.model / "tokenizer.json"))
    pad = tokenizer.token_to_id("<|endoftext|>")
    kind = json.loads((given.model / "config.json").read_text())["model_type"]
    asked = json.loads((given.data / "held_out" / "rows.json").read_text())
    held_out = HeldOut(asked, held_rows, tokenizer, kind)
    size = max(given.batch_size, 8)
    if not given.no_eval:
        held_out.report("before", model, pad, size)
    losses = train(model, rows, pad, given)
    if given.losses_out:
        given.losses_out.write_text("".join(f"{float(loss.item()).hex()}\n" for loss in losses))
    if given.out:
        save(model, given.model, given.out)
        print(f"Saved {given.out}")
    print("Training Complete!", flush=True)
    if not given.no_eval:
        made = held_out.report("after", model, pad, size)
        for row, answer in list(zip(asked, made, strict=True))[:3]:
            question = row["instruction"] + (f" {row['input']}" if row["input"] else "")
            print(f"  {question}\n    -> {answer}   (expected: {row['output']})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
