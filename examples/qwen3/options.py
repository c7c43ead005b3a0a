"""The options of the pipeline: all scripts accept the same, so that train.sh can pass its arguments on.

python options.py ...    checks arguments and folders before any work is done
"""

from __future__ import annotations

from problems import UserError

# isort: split
import argparse
import difflib
import os
import sys
from collections.abc import Callable, Iterable
from itertools import permutations
from pathlib import Path
from typing import Any, NoReturn

import yaml
from folders import OUTPUT, PREPARED, check_output, identity
from option_values import count_or_all, name, names, not_negative, path, positive, seed, share
from presets import PRESETS

Option = Callable[..., Any]
"""`add_argument` of a group."""
TINY = PRESETS["tiny"].defaults
"""Defaults that apply if neither model nor preset is named."""

PRECISIONS = ("fp32", "bf16-autocast", "bf16")
WITHOUT_EFFECT = {
    "model", "revision", "data", "data_revision", "config", "runs", "prepared", "out", "preview", "checkpoints",
    "save_every", "keep", "resume", "fresh", "log_every", "losses_out", "no_eval", "preset", "activation_checkpointing",
}  # fmt: skip
"""Options that no number depends on; `made_of` has what the run is made of."""
ONCE = {"help", "config", "resume", "fresh", "preview"}
"""Options of one command, and not of the run."""
LORA = ("lora_targets", "lora_rank", "lora_alpha", "lora_dropout", "rslora")
SCHEDULES = {
    "cosine": "to a tenth, along half a cosine",
    "linear": "to nothing",
    "constant": "stays",
    "wsd": "stays for four fifths of the steps, then to nothing",
}
"""How the learning rate goes on after the warm-up; `wsd`: warm-up, stable, decay."""


class _Parser(argparse.ArgumentParser):
    """Reports errors in one line; of an unknown option with the nearest one."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            told = unknown[0].partition("=")[0]
            self.error(f"unrecognized arguments: {' '.join(unknown)}{_nearest(told, self._option_string_actions)}")
        return found

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{Path(self.prog).name}: {message} (--help lists the options)\n")


def _nearest(name: str, known: Iterable[str]) -> str:
    """To be put after an error about an unknown name."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else ""


class _Help(argparse.RawDescriptionHelpFormatter):
    """Shows every default: the one in the help text, else the parser's own."""

    def _get_help_string(self, action: argparse.Action) -> str:
        told = action.help or ""
        if "(default: " in told or action.default is argparse.SUPPRESS:
            return told
        default = "off" if action.default is False else action.default
        tiny = f"; {TINY[action.dest]} for the tiny model" if action.dest in TINY else ""
        return f"{told} (default: {default}{tiny})"


def _files(add: Option) -> None:
    add("--model", type=name, help="checkpoint folder, or a name on the Hugging Face hub (default: a tiny one, in --runs)")
    add(
        "--preset",
        choices=[*PRESETS],
        help="a model of this size from the hub, unless --model names one, and defaults that suit it"
        " (default: tiny if no model is named)",
    )
    add("--revision", help="commit, tag or branch of the model on the hub (default: main)")
    add(
        "--data",
        type=name,
        help="JSON, JSON-lines, CSV, Parquet or text file, a folder, or the name of a data set on the hub"
        " (default: a tiny one, in --runs)",
    )
    add("--data-revision", help="commit, tag or branch of the data set on the hub (default: main)")
    add(
        "--runs",
        type=path,
        default=Path(__file__).parent / "runs",
        help="folder for outputs (default: runs, next to train.sh)",
    )
    add("--config", type=path, help="YAML file of options: their long names, without the dashes (default: none)")
    add("--prepared", type=path, help="folder for the prepared rows (default: MODEL-DATA-prepared in --runs)")
    add("--out", type=path, help="folder for the trained checkpoint (default: MODEL-DATA-tuned in --runs)")


def _data(add: Option) -> None:
    add("--rows", type=count_or_all, default=1000, help="use this many rows, drawn by --seed, or all")
    add("--held-out", type=positive, default=50, help="rows excluded from training, the last ones")
    add("--max-tokens", type=positive, default=512, help="longest row, in tokens")
    add(
        "--train-on",
        choices=["answers", "last", "all"],
        default="answers",
        help="what the loss covers: the answers of a conversation, the last one, or all tokens",
    )
    add("--pack", action="store_true", help="train on several rows at once, put into one of --max-tokens")
    add("--bucket", action="store_true", help="form batches of rows of similar lengths")
    add("--preview", type=positive, help="print this many prepared rows, trained tokens in colour, and stop (default: off)")


def _training(add: Option) -> None:
    add("--epochs", type=positive, default=3, help="passes over the training rows")
    add("--batch-size", type=positive, default=2, help="rows per micro-batch")
    add("--accumulate", type=positive, default=1, help="micro-batches per step")
    add(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="fp32; bf16-autocast: weights in fp32, matrix products in bf16; bf16: weights and gradients in bf16,"
        " optimizer state and a copy of the weights in fp32",
    )
    add("--activation-checkpointing", action="store_true", help="keep less for the backward pass, and compute it again")
    add("--optimizer", choices=["adamw", "sgd"], default="adamw", help="optimizer; SGD has momentum 0.9")
    add("--lr", type=not_negative, default=1e-5, help="peak learning rate")
    add("--schedule", choices=[*SCHEDULES], default="cosine", help="learning rate after the warm-up")
    add("--warmup", type=share, default=0.05, help="fraction of the steps in which the learning rate rises")
    add("--eps", type=not_negative, default=1e-8, help="what AdamW adds to its denominator")
    add("--weight-decay", type=not_negative, default=0.0, help="weight decay of all parameters")
    add("--clip", type=not_negative, default=1.0, help="largest gradient norm; 0: no clipping")
    add("--seed", type=seed, default=0, help="seed for drawing the rows, for their order and for dropout")
    add("--max-steps", type=positive, help="stop after this many steps (default: when all epochs are done)")
    add("--eval-every", type=positive, help="steps between two evaluations of the held-out loss (default: none)")
    add("--patience", type=positive, help="stop after so many evaluations without a better loss (default: never)")
    add("--no-eval", action="store_true", help="do not evaluate on the held-out rows before and after training")


def _lora(add: Option) -> None:
    add("--lora", action="store_true", help="train low-rank adapters of the linear layers, and nothing else")
    add("--lora-targets", type=names, help="the layers, such as q_proj,v_proj (default: all linear layers but the head)")
    add("--lora-rank", type=positive, default=16, help="rank of each adapter")
    add("--lora-alpha", type=not_negative, default=32.0, help="an adapter's scale, times its rank")
    add("--lora-dropout", type=share, default=0.0, help="dropout of what enters an adapter")
    add("--rslora", action="store_true", help="scale by alpha / sqrt(rank) instead of alpha / rank")


def _kept(add: Option) -> None:
    add("--checkpoints", type=path, help="folder for the checkpoints of a run (default: that of --out, with -checkpoints)")
    add("--save-every", type=positive, default=100, help="steps between two checkpoints")
    add("--keep", type=positive, default=1, help="how many of them to keep, besides the one with the best held-out loss")
    add("--resume", action="store_true", help="go on from the last checkpoint, or fail if there is none")
    add("--fresh", action="store_true", help="begin anew, and remove the checkpoints of an unfinished run")
    add("--log-every", type=positive, default=10, help="batches between progress lines")
    add("--losses-out", type=path, help="file for every step's loss, one per line, bit-exact (default: none)")


GROUPS: dict[str, Callable[[Option], None]] = {
    "files": _files,
    "data": _data,
    "training": _training,
    "LoRA": _lora,
    "what is kept": _kept,
}


def parser(description: str | None, program: str | None = None) -> argparse.ArgumentParser:
    made = _Parser(program, description=description, allow_abbrev=False, formatter_class=_Help)
    for title, options in GROUPS.items():
        options(made.add_argument_group(title).add_argument)
    return made


def parse(description: str | None, program: str | None = None, told: list[str] | None = None) -> argparse.Namespace:
    """The arguments of a script (`told`: or these), with every default filled in.

    Added: `tiny_model` and `tiny_data` say whether each is generated, `made_of` names model and data.
    """
    arguments = parser(description, program)
    told = sys.argv[1:] if told is None else told
    given = arguments.parse_args(told)
    if given.config:
        told = [*_from_file(given.config, arguments), *told]
        given = arguments.parse_args(told)
    if given.preset or given.model is None:
        preset = PRESETS[given.preset or "tiny"]
        arguments.set_defaults(model=preset.model, **preset.defaults)
        given = arguments.parse_args(told)
    _check_together(given, arguments)
    given.tiny_model, given.tiny_data = given.model is None, given.data is None
    given.model = given.model or str(given.runs / "tiny-qwen3")
    model = _stem(given.model)
    data = given.prepared.resolve().name if given.prepared and given.tiny_data else _stem(given.data or "tiny-alpaca")
    given.data = given.data or str(given.runs / "tiny-alpaca.json")
    given.prepared = given.prepared or given.runs / f"{model}-{data}-prepared"
    given.out = given.out or given.runs / f"{model}-{data}-tuned"
    given.checkpoints = given.checkpoints or _beside(given.out)
    _check_folders(given, arguments)
    given.made_of = {
        "model": "tiny" if given.tiny_model else identity(given.model, given.revision),
        "data": "tiny" if given.tiny_data else identity(given.data, given.data_revision),
    }
    return given


def _from_file(file: Path, arguments: argparse.ArgumentParser) -> list[str]:
    """The options in a YAML file, as the command line would have them. Exits with one line that names file and line."""
    known = {option.lstrip("-"): action for action in arguments._actions for option in action.option_strings}
    try:
        top = yaml.compose(file.read_text(encoding="utf-8"), yaml.SafeLoader)
    except (OSError, ValueError) as error:
        arguments.error(f"{file}: {getattr(error, 'strerror', None) or error}")
    except yaml.YAMLError as error:
        arguments.error(f"{file}: not YAML: {' '.join(str(error).split())}")
    if not isinstance(top, yaml.MappingNode):
        arguments.error(f"{file}: expected lines of an option's name, a colon and its value")
    found: dict[str, list[str]] = {}
    for key, value in top.value:
        where = f"{file}:{key.start_mark.line + 1}"
        name = key.value.replace("_", "-")
        if name not in known or name in ("config", "help", "h"):
            arguments.error(f"{where}: no option {key.value!r}{_nearest(name, known)}")
        if name in found:
            arguments.error(f"{where}: {key.value} is given twice")
        found[name] = _told(known[name], f"--{name}", value, where, arguments)
    return [text for told in found.values() for text in told]


def _told(
    action: argparse.Action, option: str, value: yaml.Node, where: str, arguments: argparse.ArgumentParser
) -> list[str]:
    """One option as the command line would have it; a list becomes names with commas, null the default."""
    if isinstance(value, yaml.SequenceNode) and action.type is names:
        return [f"{option}={','.join(part.value for part in value.value)}"]
    if not isinstance(value, yaml.ScalarNode):
        arguments.error(f"{where}: {option.lstrip('-')} is not a single value")
    if action.nargs == 0:
        if value.tag != "tag:yaml.org,2002:bool":
            arguments.error(f"{where}: {option.lstrip('-')} is {value.value}, expected true or false")
        return [option] if value.value.lower() in ("true", "yes", "on") else []
    return [] if value.tag == "tag:yaml.org,2002:null" else [f"{option}={value.value}"]


def _check_together(given: argparse.Namespace, arguments: argparse.ArgumentParser) -> None:
    """Exits with one line about options that contradict each other."""
    if given.resume and given.fresh:
        arguments.error("--resume goes on with a run, --fresh begins anew: give one of them")
    if given.patience and not given.eval_every:
        arguments.error("--patience counts evaluations: give --eval-every too")
    if given.lora_dropout == 1:
        arguments.error("argument --lora-dropout: 1 drops everything")
    if given.lora_alpha == 0:
        arguments.error("argument --lora-alpha: 0 switches the adapters off, and nothing would be learnt")
    unused = [f"--{name.replace('_', '-')}" for name in LORA if getattr(given, name) != arguments.get_default(name)]
    if unused and not given.lora:
        arguments.error(f"{unused[0]} does nothing without --lora")


def _check_folders(given: argparse.Namespace, arguments: argparse.ArgumentParser) -> None:
    """Exits with one line about outputs that would lie in each other."""
    for one, other in permutations(("prepared", "out", "checkpoints"), 2):
        inner, outer = getattr(given, one), getattr(given, other)
        if inner.resolve().is_relative_to(outer.resolve()):
            arguments.error(f"--{one} {inner} lies in --{other} {outer}: give folders of their own")


def resolved(given: argparse.Namespace) -> dict[str, object]:
    """All options as a YAML file would give them, so that `--config` with that file is the same run."""
    generated = {"model": given.tiny_model, "data": given.tiny_data}
    names = (action.dest for action in parser(None)._actions if action.dest not in ONCE)
    return {name.replace("_", "-"): None if generated.get(name) else _plain(getattr(given, name)) for name in names}


def deciding(given: argparse.Namespace) -> dict[str, object]:
    """The options that a run's numbers depend on."""
    return {name: value for name, value in resolved(given).items() if name.replace("-", "_") not in WITHOUT_EFFECT}


def in_short(given: argparse.Namespace) -> str:
    """The options that decide and are not as --help shows them, as the command line would have them."""
    arguments = parser(None)
    other = {
        name: value
        for name, value in deciding(given).items()
        if value != _plain(arguments.get_default(name.replace("-", "_")))
    }
    told = (
        f"--{name}" if value is True else f"--{name} {','.join(value) if isinstance(value, list) else value}"
        for name, value in other.items()
    )
    return " ".join(told) or "none"


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value


DATA_SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".txt")
"""Not part of the name of a data set."""


def _beside(out: Path) -> Path:
    """The default folder of checkpoints, next to the output folder, which may be the working directory."""
    named = out if out.name not in ("", "..") else Path(os.path.abspath(out))
    return named.with_name(f"{named.name}-checkpoints")


def _stem(place: str) -> str:
    path = Path(place).resolve()
    return path.stem if path.suffix.lower() in DATA_SUFFIXES else path.name


def main() -> int:
    about = "Qwen3 fine-tuning: load and verify weights, prepare data, train. See README.md next to train.sh."
    program = os.environ.get("PROGRAM", "./train.sh")
    given = parse(about, program)
    if given.preview:
        raise UserError(f"{program} trains; for --preview run prepare_data.py with the same arguments")
    print(f"Options that decide the result, where they differ from --help: {in_short(given)}", flush=True)
    check_output(given.prepared, PREPARED, given.made_of)
    check_output(given.out, OUTPUT, given.made_of)
    return 0


if __name__ == "__main__":
    sys.exit(main())
