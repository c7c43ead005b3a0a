"""What training prints, and the losses of its steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import torch
from problems import UserError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

WINDOW = 10
"""Losses are averaged over so many steps before they are compared."""


class Reporter:
    """Prints a line every few batches; on a terminal also a progress bar below them.

    The loss is fetched when it is shown, not every step. Speed and ETA exclude the steps up to the first line, which have
    one-time costs; tokens exclude padding. `first`: the step that training begins with.
    """

    def __init__(self, epochs: int, batches: int, steps: int, every: int, first: int = 0) -> None:
        self.epochs, self.batches, self.steps, self.every, self.first = epochs, batches, steps, every, first
        self.began = time.perf_counter()
        self.steady: tuple[int, float] | None = None
        """The step of the first line, and when it was printed."""
        self.tokens = 0
        self.console = Console(highlight=False, markup=False, soft_wrap=True)
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
        self.progress = Progress(*columns, console=self.console, transient=True)
        self.task = self.progress.add_task("", total=steps, completed=first)
        if self.console.is_terminal:
            self.progress.start()

    def step(self, step: int, tokens: int, loss: Callable[[], float]) -> None:
        """`tokens`: of this step; `loss` fetches its loss."""
        epoch, batch = divmod(step, self.batches)
        if batch == 0 or step == self.first:
            self.console.print(f"Epoch {epoch + 1}/{self.epochs}")
        self.tokens += tokens if self.steady else 0
        if batch % self.every and batch != self.batches - 1 and step != self.steps - 1:
            return
        value, now = loss(), time.perf_counter()
        told = f"Loss: {value:.4f} | Time: {now - self.began:.2f}s"
        if self.steady is None:
            self.steady = step, now
        else:
            took, steps = now - self.steady[1], step - self.steady[0]
            told += f" | {self.tokens / took:,.0f} tokens/s | ETA: {took / steps * (self.steps - 1 - step):.0f}s"
        self.say(f"  Batch {batch}/{self.batches} | {told}")
        self.progress.update(self.task, completed=step + 1, description=told)

    def say(self, line: str) -> None:
        """Print a line above the progress bar."""
        self.console.print(line)

    def close(self) -> None:
        if self.console.is_terminal:
            self.progress.stop()


class Course:
    """The losses of the steps and their gradient norms, fetched several steps at a time.

    `batches`: those of an epoch. `losses`: of the steps before. `kept`: says what there is to go back to.
    """

    def __init__(self, batches: int, losses: list[float], kept: Callable[[], str]) -> None:
        self.batches, self.losses, self.kept = batches, list(losses), kept
        self.waiting: list[torch.Tensor] = []

    def add(self, loss: torch.Tensor, norm: torch.Tensor) -> None:
        self.waiting += [loss, norm]

    def look(self) -> float:
        """The last loss, by one fetch of all pending values.

        Raises UserError for the first step that is not finite, and for losses that have grown far beyond earlier ones.
        """
        found = torch.stack(self.waiting).tolist() if self.waiting else []
        self.waiting.clear()
        for loss, norm in zip(found[::2], found[1::2], strict=True):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                self._stop(f"loss {loss}, gradient norm {norm}")
            self.losses.append(loss)
        if found and has_exploded(self.losses):
            self._stop(f"the loss has grown to {self.losses[-1]:.4g}")
        return self.losses[-1]

    def _stop(self, why: str) -> None:
        epoch, batch = divmod(len(self.losses), self.batches)
        advice = "Try a lower --lr, a longer --warmup or --clip 1"
        raise UserError(f"epoch {epoch + 1}, batch {batch}: {why}; {self.kept()}. {advice}")


def has_exploded(losses: list[float]) -> bool:
    """Whether the mean of the last ten is above one plus three times the lowest mean of ten before."""
    if len(losses) < 2 * WINDOW:
        return False
    means = np.convolve(losses, np.full(WINDOW, 1 / WINDOW), "valid")
    return bool(means[-1] > 1 + 3 * means.min())
