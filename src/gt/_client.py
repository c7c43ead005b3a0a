"""`import gt` in a client's process: starts the embedded service, registers the device, installs the facade."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from gt.client.session.configured import configured
from gt.client.session.early_start import early
from gt.config import settings
from gt.errors import ConfigError
from gt.placement import config_file, grammar
from gt.placement.layout import Sharding

if settings().config:
    configured.sharding = config_file.load(settings().config)

# The service's processes import torch while this one does: start them first.
early.start()

import torch  # noqa: E402

from gt.client import device  # noqa: E402
from gt.client.patches import configuration, inspection  # noqa: E402
from gt.client.session.process import process  # noqa: E402
from gt.client.session.random_sequence import sequence  # noqa: E402
from gt.client.stream.scopes import scope  # noqa: E402

device.install()
inspection.install(settings().inspect)
if configured.sharding is not None:
    configuration.install()

from gt import debug, files  # noqa: E402
from gt.facade import mirror  # noqa: E402
from gt.run import notebook  # noqa: E402

mirror.install()

__all__ = ["connect", "debug", "disconnect", "files", "load_config", "load_ipython_extension", "reopen", "scope", "sharding"]


def connect(address: str, timeout_s: float | None = None) -> None:
    """Join the service at `address` (`tcp://HOST:PORT` or `ipc://PATH`). The tensors of an earlier session are lost.

    Raises ConnectionLostError within `timeout_s` seconds (default: the setting `connect_timeout_s`).
    """
    process.join(address, timeout_s)


def disconnect() -> None:
    """End the session. Its tensors are gone; the next operation opens a new one."""
    process.close()


def reopen(timeout_s: float = 300.0, report: Callable[[str], None] | None = None) -> None:
    """Give up the session and open a new one: for a program that goes on after ConnectionLostError or WorkerLostError.

    Every remote tensor made so far is lost, and an error if it is used: so are modules and optimizers that hold any. The
    sharding holds again, and random numbers begin as after `torch.manual_seed(torch.initial_seed())`. A session that still
    works is closed, as by `gt.disconnect`. An embedded service is started anew; one that was joined is waited for, until it
    is there and has enough workers. `report` is told what is waited for, each time that changes; by default it is printed
    on standard error.

    Raises ConnectionLostError after `timeout_s` seconds, StartError if the embedded service does not start.
    """
    process.reopen(timeout_s, report or _say)
    sequence.begin_anew()


def _say(what: str) -> None:
    print(f"gt: {what}", file=sys.stderr, flush=True)


def load_config(path: str | os.PathLike[str]) -> None:
    """Place tensors as a sharding file says (docs/sharding.md), as `GT_CONFIG=path` does.

    Raises ConfigError for a file that is wrong, or if there are tensors already.
    """
    _configure(config_file.load(path))


def sharding(**sections: Any) -> None:
    """Place tensors as the sections of a sharding file say: `mesh`, `params`, `inputs`, `scopes`, `workers`.

    Raises ConfigError for sections that are wrong, or if there are tensors already.
    """
    _configure(grammar.sharding(**sections))


def _configure(chosen: Sharding) -> None:
    if process.has_begun():
        raise ConfigError(f"{chosen.source}: loaded after tensors were made on workers; load it before the first one")
    before, configured.sharding = configured.sharding, chosen
    try:
        early.start_anew()
    except ConfigError:
        configured.sharding = before
        raise
    configuration.install()


def load_ipython_extension(shell: Any) -> None:
    """`%load_ext gt`, called by IPython.

    Raises RefusedError if cells or libraries have torch already.
    """
    notebook.load()


def lookup(name: str) -> object:
    """The value of `gt.name` for a name of torch (PEP 562). Raises AttributeError for any other."""
    package = sys.modules["gt"]
    value = mirror.resolve(torch, "gt", name)
    setattr(package, name, value)
    return value


def names() -> list[str]:
    return sorted({*dir(torch), *vars(sys.modules["gt"])})
