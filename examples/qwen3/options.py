"""The options of the pipeline: all scripts accept the same, so that train.sh can pass its arguments on.

python options.py ...    checks arguments and folders before any work is done
"""

from __future__ import annotations

import problems  # noqa: F401

# isort: split
import argparse
import math
import os
import sys
from pathlib import Path
from typing import NoReturn

from folders import CHECKPOINT, PREPARED, check_output, identity

TINY = {"epochs": 16, "batch_size": 16, "lr": 3e-3}
"""Defaults that apply if no model is named."""


class _Parser(argparse.ArgumentParser):
    """Reports errors in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{Path(self.prog).name}: {message} (--help lists the options)\n")


class _Help(argparse.RawDescriptionHelpFormatter):
    """Shows every default: the one in the help text, else the parser's own."""

    def _get_help_string(self, action: argparse.Action) -> str:
        told = action.help or ""
        if "(default: " in told or action.default is argparse.SUPPRESS:
            return told
        default = "off" if action.default is False else action.default
        tiny = f"; {TINY[action.dest]} for the tiny model" if action.dest in TINY else ""
        return f"{told} (default: {default}{tiny})"


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive integer")
    return int(text)


def seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text} is not an integer from 0 to {2**63 - 1}")
    return int(text)


def not_negative(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a non-negative number")
    return value


def share(text: str) -> float:
    value = not_negative(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"{text} is not a fraction from 0 to 1")
    return value


def name(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("the name is empty")
    return os.path.expanduser(text)


def path(text: str) -> Path:
    return Path(name(text))


def parser(description: str | None, program: str | None = None) -> argparse.ArgumentParser:
    made = _Parser(program, description=description, allow_abbrev=False, formatter_class=_Help)
    files = made.add_argument_group("files").add_argument
    files("--model", type=name, help="checkpoint folder, or a name on the Hugging Face hub (default: a tiny one, in --runs)")
    files("--revision", help="commit, tag or branch of the model on the hub (default: main)")
    files(
        "--data",
        type=name,
        help="JSON or JSON-lines file, a folder, or the name of a data set on the hub (default: a tiny one, in --runs)",
    )
    files("--data-revision", help="commit, tag or branch of the data set on the hub (default: main)")
    files(
        "--runs",
        type=path,
        default=Path(__file__).parent / "runs",
        help="folder for outputs (default: runs, next to train.sh)",
    )
    files("--prepared", type=path, help="folder for the prepared rows (default: MODEL-DATA-prepared in --runs)")
    files("--out", type=path, help="folder for the trained checkpoint (default: MODEL-DATA-tuned in --runs)")

    data = made.add_argument_group("data").add_argument
    data("--rows", type=positive, default=1000, help="use this many rows, drawn by --seed")
    data("--held-out", type=positive, default=50, help="rows excluded from training")
    data("--max-tokens", type=positive, default=512, help="longest row, in tokens")

    training = made.add_argument_group("training").add_argument
    training("--epochs", type=positive, default=3, help="passes over the training rows")
    training("--batch-size", type=positive, default=2, help="rows per micro-batch")
    training("--accumulate", type=positive, default=1, help="micro-batches per step")
    training("--optimizer", choices=["adamw", "sgd"], default="adamw", help="optimizer; SGD has momentum 0.9")
    training("--lr", type=not_negative, default=1e-5, help="peak learning rate")
    training("--eps", type=not_negative, default=1e-8, help="what AdamW adds to its denominator")
    training("--weight-decay", type=not_negative, default=0.0, help="weight decay of all parameters")
    training("--clip", type=not_negative, default=1.0, help="largest gradient norm; 0: no clipping")
    training("--warmup", type=share, default=0.05, help="fraction of the steps in which the learning rate rises")
    training("--bf16", action="store_true", help="run the forward pass under bfloat16 autocast")
    training("--seed", type=seed, default=0, help="seed for drawing the rows and for their order")
    training("--max-steps", type=positive, help="stop after this many steps (default: when all epochs are done)")
    training("--log-every", type=positive, default=10, help="batches between progress lines")
    training("--losses-out", type=path, help="file for every step's loss, one per line, bit-exact (default: none)")
    training("--no-eval", action="store_true", help="do not evaluate on the held-out rows")
    return made


def parse(description: str | None, program: str | None = None) -> argparse.Namespace:
    """The arguments of a script, with every default filled in.

    Added: `tiny_model` and `tiny_data` say whether each is generated, `made_of` names model and data.
    """
    arguments = parser(description, program)
    given = arguments.parse_args()
    if given.model is None:
        arguments.set_defaults(**TINY)
        given = arguments.parse_args()
    given.tiny_model, given.tiny_data = given.model is None, given.data is None
    given.model = given.model or str(given.runs / "tiny-qwen3")
    model = _stem(given.model)
    data = given.prepared.resolve().name if given.prepared and given.tiny_data else _stem(given.data or "tiny-alpaca")
    given.data = given.data or str(given.runs / "tiny-alpaca.json")
    given.prepared = given.prepared or given.runs / f"{model}-{data}-prepared"
    given.out = given.out or given.runs / f"{model}-{data}-tuned"
    given.made_of = {
        "model": "tiny" if given.tiny_model else identity(given.model, given.revision),
        "data": "tiny" if given.tiny_data else identity(given.data, given.data_revision),
    }
    return given


def _stem(place: str) -> str:
    return Path(place).resolve().name.removesuffix(".json").removesuffix(".jsonl")


def main() -> int:
    about = "Qwen3 fine-tuning: load and verify weights, prepare data, train. See README.md next to train.sh."
    given = parse(about, os.environ.get("PROGRAM", "./train.sh"))
    check_output(given.prepared, PREPARED, given.made_of)
    check_output(given.out, CHECKPOINT, given.made_of)
    return 0


if __name__ == "__main__":
    sys.exit(main())
