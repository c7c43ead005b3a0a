"""What the pipeline can be told: one vocabulary for its three scripts, so that train.sh hands on what it was given.

python options.py ...    checks arguments, before any work is done
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import NoReturn


class _Parser(argparse.ArgumentParser):
    """Tells what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help lists what there is)\n")


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1 up")
    return int(text)


def not_negative(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 up")
    return value


def parse(description: str | None, *required: str, program: str | None = None) -> argparse.Namespace:
    """The arguments of a script that cannot do without `required`; `prepared` and `out` are filled in."""
    parser = _Parser(program, description=description, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    files = parser.add_argument_group("files").add_argument
    files("--model", required=True, help="checkpoint folder, or a name on the Hugging Face hub")
    files("--revision", help="commit, tag or branch of the model on the hub")
    files(
        "--data", required="data" in required, help="JSON or JSON-lines file, a folder, or the name of a data set on the hub"
    )
    files("--data-revision", help="commit, tag or branch of the data set on the hub")
    files("--runs", type=Path, default=Path("runs"), help="folder for what is made (default: runs)")
    files("--prepared", type=Path, help="folder for the prepared rows (default: in --runs, named after data and model)")
    files("--out", type=Path, help="folder for the trained checkpoint (default: in --runs, named after the model)")

    data = parser.add_argument_group("data").add_argument
    data("--rows", type=positive, default=1000, help="use this many rows, drawn by --seed (default 1000)")
    data("--held-out", type=positive, default=50, help="rows kept from training (default 50)")
    data("--max-tokens", type=positive, default=512, help="longest row (default 512)")

    training = parser.add_argument_group("training").add_argument
    training("--epochs", type=positive, default=3)
    training("--batch-size", type=positive, default=2, help="rows of a micro-batch (default 2)")
    training("--accumulate", type=positive, default=1, help="micro-batches of a step (default 1)")
    training("--optimizer", choices=["adamw", "sgd"], default="adamw")
    training("--lr", type=not_negative, default=1e-5)
    training("--weight-decay", type=not_negative, default=0.0)
    training("--clip", type=not_negative, default=1.0, help="largest norm of the gradients (default 1)")
    training("--warmup", type=not_negative, default=0.05, help="share of the steps (default 0.05)")
    training("--bf16", action="store_true", help="run the forward pass under bfloat16 autocast")
    training("--seed", type=int, default=0)
    training("--max-steps", type=positive, help="stop after this many")
    training("--log-every", type=positive, default=10, help="batches between two lines (default 10)")
    training("--losses-out", type=Path, help="write every step's loss, one a line, to the last bit")
    training("--no-eval", action="store_true", help="leave the held-out rows alone")

    given = parser.parse_args()
    model, data_set = _stem(given.model), _stem(given.data or "data")
    given.prepared = given.prepared or given.runs / f"{data_set}-{model}"
    given.out = given.out or given.runs / f"{model}-tuned"
    return given


def _stem(name: str) -> str:
    return Path(name).resolve().name.removesuffix(".json").removesuffix(".jsonl")


if __name__ == "__main__":
    parse("Qwen3 fine-tuning: load and verify weights, prepare data, train.", "data", program="train.sh")
