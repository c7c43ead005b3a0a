"""Which run this is: what it is made of, and whether it has been finished, or has checkpoints to go on from."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import lora
from checkpoints import Checkpoints, State
from config import Config
from evaluation import HeldOut, Report
from folders import INDEX, OUTPUT, RECORD, RESULT, WEIGHTS, check_output, resolve, shown, write_beside
from load_weights import checksum, entries
from options import deciding
from packing import Packed
from prepared import Rows
from problems import UserError, read_json

CONTENT = ("content of the model", "content of the prepared rows")
"""Among the options that a run is known by: it does not go on from other weights, nor with other rows."""


@dataclass(frozen=True)
class Run:
    """What is trained on what. `source`: the folder of the checkpoint to begin with."""

    given: argparse.Namespace
    source: Path
    made_of: dict[str, str]
    rows: Rows | Packed
    held_out: HeldOut
    options: dict[str, object]
    """All that its numbers depend on, besides `made_of`."""

    @classmethod
    def open(cls, given: argparse.Namespace) -> Run:
        """Checks the folders that it reads, and those that it will write. Raises UserError or OSError."""
        source = resolve(given.model, given.revision)
        prepared = read_json(given.prepared / RECORD)
        if "data" not in prepared:
            raise UserError(f"{given.prepared}: not a folder of prepared rows (--prepared)")
        made_of = given.made_of | {"data": str(prepared["data"])}
        check_folders(given, source, made_of)
        vocabulary = Config.from_json(source / "config.json").vocab_size
        rows = Rows.open(given.prepared / "train", vocabulary)
        rows.check_longest(given.max_tokens)
        held_out = HeldOut.open(given.prepared, source, vocabulary, given.batch_size)
        contents = (checksum(source), f"{rows.checksum()} {held_out.data.checksum()}")
        options = deciding(given) | dict(zip(CONTENT, contents, strict=True))
        packed = Packed.of(rows, given.max_tokens) if given.pack else rows
        return cls(given, source, made_of, packed, held_out, options)

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.rows) / (self.given.batch_size * self.given.accumulate))

    @property
    def steps(self) -> int:
        return min(self.given.epochs * self.steps_per_epoch, self.given.max_steps or sys.maxsize)

    def begin(self) -> State:
        """The state before the first step."""
        return State(made_of=self.made_of, options=self.options)

    def is_of(self, state: State) -> bool:
        """Whether a state is of a run with the same options on the same model and data."""
        return (state.made_of, state.options) == (self.made_of, self.options)


def check_folders(given: argparse.Namespace, source: Path, made_of: dict[str, str]) -> None:
    """Check that the outputs can be written after training. Raises UserError or OSError."""
    float32 = 4 * sum(math.prod(entry.shape) for entry in entries(source).values())
    check_output(given.out, OUTPUT, made_of, 0 if given.lora else float32)
    if given.losses_out:
        new = not given.losses_out.exists()
        given.losses_out.open("a").close()
        if new:
            given.losses_out.unlink()


def recorded(run: Run) -> dict[str, object]:
    """What is written of the run that finished last with the same output folder: its identity and its result."""
    path = run.given.out / RESULT
    return read_json(path) if path.exists() else {}


def finished(run: Run) -> dict[str, str] | None:
    """What came of the same run, if it has been finished and its weights are there."""
    found, weights = recorded(run), lora.WEIGHTS if run.given.lora else WEIGHTS
    is_there = any((run.given.out / name).exists() for name in (weights, INDEX))
    is_same = all(found.get(key) == value for key, value in identity_of(run).items())
    return found["result"] if is_same and is_there and not run.given.fresh else None  # type: ignore[return-value]


def identity_of(run: Run) -> dict[str, object]:
    """What makes a run the same command. One that was begun elsewhere is gone on with, but not taken for finished here."""
    where = {"import": "gt" if "gt" in sys.modules else "torch", "sharding": os.environ.get("GT_CONFIG", "")}
    return {"made_of": run.made_of, "options": run.options, "where": where}


def first_state(run: Run, checkpoints: Checkpoints) -> State:
    """Where to begin. Raises UserError if there is an unfinished run that is not this one."""
    checkpoints.drop_partial()
    state = None if run.given.fresh else checkpoints.last()
    if state is not None and not run.is_of(state):
        found = recorded(run)
        if (found.get("made_of"), found.get("options")) != (state.made_of, state.options):
            raise UserError(
                f"{checkpoints.folder}: an unfinished run with {difference(run, state)}: repeat that to go on with it, give"
                " another --out, or --fresh to remove it"
            )
        state = None
    if state is None:
        if run.given.resume:
            raise UserError(f"{checkpoints.folder}: no checkpoint to go on from (--resume)")
        checkpoints.clear()
        return run.begin()
    if run.given.patience and state.best_step not in (0, *checkpoints.steps()):
        best = checkpoints.path(state.best_step)
        raise UserError(f"{best}: gone, although it has the lowest held-out loss: --fresh begins anew")
    print(f"Going on after step {state.step} of {run.steps}: {shown(checkpoints.path(state.step))}", flush=True)
    return state


def difference(run: Run, state: State) -> str:
    """The first option that another run's state was made with and this run has otherwise; or its model, or its data."""
    pairs = [(name, state.made_of.get(name), value) for name, value in run.made_of.items()]
    pairs += [(name, state.options.get(name), run.options.get(name)) for name in {**run.options, **state.options}]
    name, theirs, ours = next(pair for pair in pairs if pair[1] != pair[2])
    option = f"--{name}" if name in run.options and name not in CONTENT else name
    return f"another {option} ({theirs}, now {ours})"


def repeating(given: argparse.Namespace) -> str:
    """The command that goes on with a run that is not finished."""
    return "the same command without --fresh" if given.fresh else "the same command"


def write_result(run: Run, report: Report | None, state: State) -> None:
    """Record that the run is finished: the same command shows this."""
    result = {"steps": str(state.step), "loss of the last step": f"{state.losses[-1]:.4f}"}
    if report is not None:
        result["held-out"] = str(report)
    record = identity_of(run) | {"result": result}
    write_beside(run.given.out, RESULT, json.dumps(record, indent=2) + "\n")
