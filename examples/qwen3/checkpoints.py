"""Checkpoints of a run under way: from one of them the run goes on, to the bit.

Each is a folder `step-N` that `transformers` (or, of adapters, PEFT) loads, with the optimizer's state in `optimizer/` and
the rest in state.json. It is written under another name, by GT's workers in the background, and renamed once all of it is
on the disk: what is there under its name is whole, whenever the run was killed. One run at a time has the folder.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from checkpoint_files import Save, Saving, is_lost, save_in_background, size_bytes
from folders import FOREIGN, PARTIAL, flush
from problems import UserError, read_json
from safetensors import SafetensorError

STATE, OPTIMIZER = "state.json", "optimizer"


@dataclass(frozen=True)
class State:
    """Where a run is, apart from its tensors. `losses`: of all steps so far; `made_of` and `options`: which run it is."""

    losses: list[float] = field(default_factory=list)
    best_loss: float | None = None
    best_step: int = 0
    evaluations_since: int = 0
    made_of: dict[str, str] = field(default_factory=dict)
    options: dict[str, object] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """The number of steps done."""
        return len(self.losses)

    def after(self, losses: list[float]) -> State:
        """After steps with these losses, the earlier ones included."""
        return replace(self, losses=list(losses))

    def evaluated(self, loss: float) -> State:
        """After an evaluation on the held-out rows."""
        if self.best_loss is None or loss < self.best_loss:
            return replace(self, best_loss=loss, best_step=self.step, evaluations_since=0)
        return replace(self, evaluations_since=self.evaluations_since + 1)


@dataclass
class _UnderWay:
    """A checkpoint that is being written. `size_bytes`: of its tensors, as far as they are known."""

    state: State
    partial: Path
    size_bytes: int
    savings: list[Saving] = field(default_factory=list)


class Checkpoints:
    """The checkpoints of one run, in a folder of their own; the last `keep` and the best are kept. `save` writes files."""

    def __init__(self, folder: Path, keep: int, save: Save = save_in_background) -> None:
        self.folder, self.keep, self.save = folder, keep, save
        self._under_way: _UnderWay | None = None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Have the folder for this run alone. Raises UserError if another has it, or if it holds other things."""
        self.folder.mkdir(parents=True, exist_ok=True)
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            self._lock(folder)
            self._check_held()
            yield
        finally:
            with suppress(OSError):  # it has checkpoints
                self.folder.rmdir()
            os.close(folder)

    def _lock(self, folder: int) -> None:
        with suppress(BlockingIOError):
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(folder).st_nlink:  # else the other run has ended just now, and removed it
                return
        raise UserError(f"{self.folder}: another run is training with these checkpoints; wait for it, or give another --out")

    def _check_held(self) -> None:
        for path in sorted(self.folder.iterdir()):
            if not path.name.startswith(PARTIAL) and path.name not in FOREIGN and not _step_of(path):
                raise UserError(f"{path}: no whole checkpoint: remove it, or choose another folder (--checkpoints)")

    def steps(self) -> list[int]:
        """The steps that have a whole checkpoint, in order."""
        return sorted(filter(None, map(_step_of, self.folder.glob("step-*"))))

    def path(self, step: int) -> Path:
        """The folder of a step's checkpoint."""
        return self.folder / f"step-{step:06d}"

    def last(self) -> State | None:
        """The state of the last checkpoint. Raises UserError if its file is damaged."""
        if not (steps := self.steps()):
            return None
        path = self.path(steps[-1]) / STATE
        try:
            return State(**read_json(path))
        except TypeError as error:
            raise UserError(f"{path}: not the state of a run: {error}") from None

    def said(self) -> str:
        """What there is to go back to, for a message; a checkpoint under way is completed first."""
        self.finish()
        steps = self.steps()
        return f"the last good checkpoint is {self.path(steps[-1])}" if steps else "nothing was saved"

    def optimizer_files(self, step: int) -> dict[str, Path]:
        """The files of the optimizer's state, by kind of state."""
        return {path.stem: path for path in sorted((self.path(step) / OPTIMIZER).glob("*.safetensors"))}

    def begin(
        self,
        state: State,
        write_weights: Callable[[Path, Save], list[Saving]],
        optimizer: Mapping[str, Mapping[str, torch.Tensor]],
    ) -> None:
        """Begin to write the checkpoint of a state; one that is still under way is completed first."""
        self.finish()
        begun = _UnderWay(state, self.folder / f"{PARTIAL}{state.step:06d}", sum(map(_size_bytes, optimizer.values())))

        def save_weights(tensors: Mapping[str, torch.Tensor], path: Path) -> list[Saving]:
            begun.size_bytes += _size_bytes(tensors)
            return self.save(tensors, path)

        try:
            shutil.rmtree(begun.partial, ignore_errors=True)
            (begun.partial / OPTIMIZER).mkdir(parents=True)
            (begun.partial / STATE).write_text(json.dumps(asdict(state)) + "\n", encoding="utf-8")
            begun.savings += write_weights(begun.partial, save_weights)
            for kind, tensors in optimizer.items():
                begun.savings += self.save(tensors, begun.partial / OPTIMIZER / f"{kind}.safetensors")
            self._under_way = begun
        except (OSError, RuntimeError, SafetensorError) as error:
            self._failed(begun, error)

    def look(self) -> None:
        """Put the checkpoint under way in its place, if all of it has been written."""
        if self._under_way and all(map(_has_ended, self._under_way.savings)):
            self.finish()

    def finish(self) -> None:
        """Wait for the checkpoint under way, and put it in its place. If it cannot be written, that is reported."""
        under_way, self._under_way = self._under_way, None
        if under_way is None:
            return
        try:
            for saving in under_way.savings:
                saving.wait()
            flush(*under_way.partial.rglob("*"), under_way.partial)
            final = self.path(under_way.state.step)
            self._remove(under_way.state.step)
            os.replace(under_way.partial, final)
            flush(self.folder)
        except (OSError, RuntimeError, SafetensorError) as error:
            self._failed(under_way, error)
        else:
            self._drop_others(under_way.state)

    def _failed(self, begun: _UnderWay, error: Exception) -> None:
        """Report a checkpoint that could not be written. An error of the connection is the caller's."""
        if is_lost(error):
            raise error
        shutil.rmtree(begun.partial, ignore_errors=True)
        why, free = " ".join(str(error).split()), shutil.disk_usage(self.folder).free
        print(
            f"Warning: the checkpoint of step {begun.state.step} cannot be written ({why}): it needs"
            f" {begun.size_bytes / 1e6:,.1f} MB, and the disk has {free / 1e6:,.1f} MB left; {self.said()}",
            file=sys.stderr,
        )

    def _drop_others(self, state: State) -> None:
        kept = {*self.steps()[-self.keep :], state.best_step}
        for step in set(self.steps()) - kept:
            self._remove(step)

    def _remove(self, step: int) -> None:
        """Remove a step's checkpoint, if there is one. What has its name is whole, also if this is cut short."""
        path = self.path(step)
        if path.exists():
            removed = self.folder / f"{PARTIAL}removed-{path.name}"
            os.replace(path, removed)
            shutil.rmtree(removed)

    def clear(self) -> None:
        """Remove all checkpoints."""
        for step in self.steps():
            self._remove(step)
        self.drop_partial()

    def drop_partial(self) -> None:
        """Remove what a run that was killed had begun to write."""
        self._under_way = None
        for partial in self.folder.glob(f"{PARTIAL}*"):
            shutil.rmtree(partial)


def _step_of(path: Path) -> int:
    """The number of the step whose checkpoint this is; 0 if it is none."""
    name = re.fullmatch(r"step-(\d{6,})", path.name)
    return int(name[1]) if name and (path / STATE).is_file() else 0


def _size_bytes(tensors: Mapping[str, torch.Tensor]) -> int:
    return sum(map(size_bytes, tensors.values()))


def _has_ended(saving: Saving) -> bool:
    """Whether there is nothing to wait for. What went wrong is raised by `wait`."""
    try:
        return saving.done()
    except (OSError, RuntimeError, SafetensorError):
        return True
