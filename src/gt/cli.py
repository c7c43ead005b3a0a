"""The command `gt`: run, serve, worker, log, explain, check, config.

Each command imports what it needs: the processes of a service are started by this file, and a program waits for them.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Sequence

from gt import __version__, collector, life
from gt.config import TABLE, read, settings
from gt.errors import ConfigError, GTError
from gt.tools.script import ScriptError


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="gt", description="PyTorch whose tensors live on a shared pool of workers.")
    top.add_argument("--version", action="version", version=f"gt {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _run_arguments(commands.add_parser("run", help="run a program that imports torch, unchanged, with GT's torch"))
    _serve_arguments(commands.add_parser("serve", help="run a dispatcher and local workers"))
    _worker_arguments(commands.add_parser("worker", help="add a worker to a running service"))
    _log_arguments(commands.add_parser("log", help="print an instruction log, filtered"))
    _explain_arguments(commands.add_parser("explain", help="show what a sharding file makes of a program's first step"))
    _check_arguments(commands.add_parser("check", help="compare a program's first step on many workers with one worker's"))
    commands.add_parser("config", help="print every setting, its value and its origin")
    return top


def _run_arguments(program: argparse.ArgumentParser) -> None:
    program.usage = "gt run [-h] [--workers N] (SCRIPT | -m MODULE | -c CODE) [ARGUMENT ...]"
    program.description = (
        "Run a program as Python does, and give it and the libraries that it imports GT's torch: nothing in them is changed,"
        " and their tensors are on the workers. The processes that it starts are run in the same way."
    )
    program.add_argument("--workers", type=_count("workers"), metavar="N", help="workers to start (as GT_WORKERS)")
    program.add_argument("command_line", nargs="+", metavar="SCRIPT", help="and all that Python takes after it")


def _serve_arguments(serve: argparse.ArgumentParser) -> None:
    serve.add_argument("--address", required=True, help="tcp://127.0.0.1:PORT or ipc://PATH; workers use the next port")
    serve.add_argument("--workers", type=_count("workers"), help="local workers (default: one per visible GPU, else one)")
    serve.add_argument("--device", help="their device, as in torch.device (default: cuda if there is one, else cpu)")
    serve.add_argument("--data", nargs="*", metavar="DIR", help="folders that workers may read and write (default: GT_DATA)")
    serve.add_argument("--embedded", action="store_true", help=argparse.SUPPRESS)


def _count(of: str) -> Callable[[str], int]:
    """What reads an option that counts `of`."""

    def read(text: str) -> int:
        if not text.isdecimal():
            raise argparse.ArgumentTypeError(f"{text!r} is not a number of {of}")
        return int(text)

    return read


def _worker_arguments(worker: argparse.ArgumentParser) -> None:
    worker.add_argument("--connect", required=True, metavar="ADDRESS", help="the service's address, as clients use it")
    worker.add_argument("--device", help="as in torch.device (default: cuda if there is one, else cpu)")
    worker.add_argument("--name", help="the worker's name in messages (default: host and process id)")
    worker.add_argument("--data", nargs="*", metavar="DIR", help="folders that it may read and write (default: GT_DATA)")
    worker.add_argument("--threads", type=_count("threads"), help="threads of a CPU worker (default: GT_WORKER_THREADS)")
    worker.add_argument("--any-file", action="store_true", help=argparse.SUPPRESS)


def _log_arguments(show: argparse.ArgumentParser) -> None:
    show.add_argument("file")
    show.add_argument("--session", type=int)
    show.add_argument("--worker")
    show.add_argument("--op", metavar="GLOB", help="for example 'aten::mm*' or AllReduce")
    show.add_argument("--id", type=int, help="instructions that touch this storage")
    show.add_argument("--since", type=float, metavar="SECONDS", help="since the epoch")
    show.add_argument("--until", type=float, metavar="SECONDS", help="since the epoch")
    show.add_argument("--json", action="store_true", help="as in the file, one JSON object per line")


def _explain_arguments(explained: argparse.ArgumentParser) -> None:
    explained.description = (
        "Run a program's first training step on shapes alone, without any worker, and print where its tensors are,"
        " what travels between workers, and how much memory they need."
    )
    explained.add_argument("--config", required=True, metavar="FILE", help="the sharding file (docs/sharding.md)")
    explained.add_argument("--html", metavar="OUT", help="also write the report as a page")
    explained.add_argument("--steps", type=_steps, default=1, help="which step to look at (default: 1, the first)")
    _command_argument(explained)


def _check_arguments(checked: argparse.ArgumentParser) -> None:
    checked.description = (
        "Run a program's first training step twice, as a sharding file says and on one worker, and compare parameters,"
        " buffers and gradients by name. Exit status 1 if any differs."
    )
    checked.add_argument("--config", required=True, metavar="FILE", help="the sharding file (docs/sharding.md)")
    help_text = "largest difference, relative by norm (default: %(default)g)"
    checked.add_argument("--rtol", type=_limit, metavar="LIMIT", default=1e-5, help=help_text)
    help_text = "the same for 16-bit floats, and under autocast (default: %(default)g)"
    checked.add_argument("--rtol-bf16", type=_limit, metavar="LIMIT", default=2e-2, help=help_text)
    _command_argument(checked)


def _limit(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a relative difference, such as 1e-5")
    return value


def _command_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("command_line", nargs="+", metavar="COMMAND", help="after --: python script.py ...")


def _steps(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not the number of a step, from 1 on")
    return int(text)


def _divided(arguments: list[str]) -> list[str]:
    """The arguments of `gt run` with `--` before those of Python, which begin where those of GT end."""
    if arguments[:1] != ["run"]:
        return arguments
    own = 1
    while own < len(arguments) and arguments[own].startswith(("--workers", "-h", "--help")):
        own += 2 if arguments[own] == "--workers" else 1
    rest = arguments[own:]
    return [*arguments[:own], *(["--"] if rest[:1] not in ([], ["--"]) else []), *rest]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command (default: of `sys.argv`); returns its exit status. Errors are one line on standard error."""
    given = parser().parse_args(_divided(sys.argv[1:] if arguments is None else list(arguments)))
    try:
        return COMMANDS[given.command](given)
    except ScriptError as error:
        print(f"gt: {error}", file=sys.stderr)
        return error.status
    except GTError as error:
        print(f"gt: {error}", file=sys.stderr)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print("gt", *filter(None, (error.filename, error.strerror)), sep=": ", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    return 1


def _run(given: argparse.Namespace) -> int:
    from gt.run.command import run  # late import: see above

    run(given.command_line, given.workers)


def _serve(given: argparse.Namespace) -> int:
    from gt.dispatcher import service  # late import: see above

    gpus = service.visible_gpus()
    count = given.workers if given.workers is not None else max(1, len(gpus))
    devices = [given.device or (f"cuda:{gpus[i % len(gpus)]}" if gpus else "cpu") for i in range(count)]
    service.serve(given.address, devices, None if given.embedded else _folders(given.data), given.embedded)
    return 0


def _folders(given: list[str] | None) -> list[str]:
    """Raises ConfigError for a folder that does not exist: a typo would silently slow down loading."""
    folders = given if given is not None else [d for d in settings().data_dirs.split(os.pathsep) if d]
    for folder in folders:
        if not os.path.isdir(folder):
            raise ConfigError(f"{folder}: no such folder (--data or GT_DATA)")
    return folders


def _worker(given: argparse.Namespace) -> int:
    from gt.worker import openmp  # late import: see above

    life.end_with_starter()
    openmp.leave_room(settings().worker_threads)
    with collector.paused():
        from gt.worker import server  # late import: torch, whose threads are set up by now

    threads = given.threads or settings().worker_threads
    server.main(given.connect, given.device, given.name, None if given.any_file else _folders(given.data), threads)
    return 0


def _log(given: argparse.Namespace) -> int:
    from gt.dispatcher import log  # late import: see above

    wanted = log.Filter(given.session, given.worker, given.op, given.id, given.since, given.until)
    log.show(given.file, wanted, given.json)
    return 0


def _explain(given: argparse.Namespace) -> int:
    from gt.tools.explain import explain  # late import: see above

    return explain(given.config, given.command_line, given.steps, given.html)


def _check(given: argparse.Namespace) -> int:
    from gt.tools.check import check  # late import: see above
    from gt.tools.comparison import Limits  # late import: see above

    return check(given.config, given.command_line, Limits(given.rtol, given.rtol_bf16))


def _config(given: argparse.Namespace) -> int:
    values, origins = read(os.environ)
    for row in TABLE:
        print(f"{row.name:<20} {getattr(values, row.name)!r:<12} {origins[row.name]:<24} {row.help}")
    return 0


COMMANDS = {
    "run": _run, "serve": _serve, "worker": _worker, "log": _log, "explain": _explain, "check": _check, "config": _config,
}  # fmt: skip
