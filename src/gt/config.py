"""Every setting of GT, in one table. A value comes from its environment variable, else from its default."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from gt.errors import ConfigError


@dataclass(frozen=True)
class Setting:
    """One row: `env` names the environment variable, `least` the smallest value that makes sense."""

    name: str
    kind: Callable[[str], Any]
    default: Any
    env: str
    help: str
    least: float | None = None


ROLES = ("client", "dispatcher", "worker")


def _role(text: str) -> str:
    if text not in ROLES:
        raise ConfigError(f"GT_ROLE={text!r}: expected one of {', '.join(ROLES)}; leave it unset in a client")
    return text


def _sync(text: str) -> bool:
    if text not in ("0", "1"):
        raise ConfigError(f"GT_SYNC={text!r}: expected 0 or 1")
    return text == "1"


def _inspect(text: str) -> str:
    what, _, how = text.partition(":")
    if what not in ("explain", "check") or not how:
        raise ConfigError(f"GT_INSPECT={text!r}: `gt explain` and `gt check` set it; leave it unset")
    return text


TABLE = (
    Setting("address", str, "", "GT_ADDRESS", "service to join; empty: an embedded one is started"),
    Setting("instruction_log", str, "", "GT_INSTRUCTION_LOG", "file that gets every instruction, one JSON line each"),
    Setting("worker_batch_size", int, 512, "GT_WORKER_BATCH_SIZE", "instructions a worker takes at a time", 1),
    Setting("segment_size", int, 512, "GT_SEGMENT_SIZE", "instructions a client collects before it sends them", 1),
    Setting("segment_age_s", float, 0.01, "GT_SEGMENT_AGE_S", "seconds after which an idle client sends what it has", 0.001),
    Setting("sync", _sync, False, "GT_SYNC", "1: wait for every operation, so that its error is raised at its line"),
    Setting("connect_timeout_s", float, 5.0, "GT_CONNECT_TIMEOUT_S", "seconds to wait for a service that is joined", 0.1),
    Setting("credit", int, 64, "GT_CREDIT", "batches of one session that may be under way", 1),
    Setting("config", str, "", "GT_CONFIG", "sharding file: how tensors are placed on several workers (docs/sharding.md)"),
    Setting("workers", int, 0, "GT_WORKERS", "workers of an embedded service; 0: as the mesh needs, else one per GPU", 0),
    Setting(
        "worker_threads",
        int,
        0,
        "GT_WORKER_THREADS",
        "threads of a CPU worker; 0: as PyTorch, a share for each of several",
        0,
    ),
    Setting("heartbeat_s", float, 1.0, "GT_HEARTBEAT_S", "seconds between two looks at who is still there", 0.1),
    Setting("data_dirs", str, "", "GT_DATA", "folders a service's workers may read and write, separated by ':'"),
    Setting("inspect", _inspect, "", "GT_INSPECT", "set by `gt explain` and `gt check` for the script that they run"),
    Setting("run", str, "", "GT_RUN", "set by `gt run` for the program that it runs, and for what that starts"),
    Setting("role", _role, "client", "GT_ROLE", "what this process is; set for the processes that GT starts"),
)


@dataclass(frozen=True)
class Settings:
    """The values in force; times in seconds."""

    address: str
    instruction_log: str
    worker_batch_size: int
    segment_size: int
    segment_age_s: float
    sync: bool
    connect_timeout_s: float
    credit: int
    config: str
    workers: int
    worker_threads: int
    heartbeat_s: float
    data_dirs: str
    inspect: str
    run: str
    role: str

    @property
    def segment_limit(self) -> int:
        """How many instructions a client collects at most before it sends them."""
        return 1 if self.sync else self.segment_size


def read(environment: Mapping[str, str]) -> tuple[Settings, dict[str, str]]:
    """Settings from an environment, and the origin of each. Raises ConfigError for an unknown name or an unusable value."""
    _refuse_unknown(environment)
    values = {row.name: _value(row, environment) for row in TABLE}
    origins = {row.name: row.env if environment.get(row.env) else "default" for row in TABLE}
    return Settings(**values), origins


@cache
def settings() -> Settings:
    """The settings of this process, read once."""
    return read(os.environ)[0]


def _refuse_unknown(environment: Mapping[str, str]) -> None:
    known = {row.env for row in TABLE}
    for name in environment:
        if name.startswith("GT_") and name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise ConfigError(f"{name} is not a setting" + (f"; did you mean {near[0]}?" if near else ""))


def _value(row: Setting, environment: Mapping[str, str]) -> Any:
    text = environment.get(row.env, "")
    if not text:
        return row.default
    try:
        value = row.kind(text)
    except ConfigError:
        raise
    except ValueError:
        raise ConfigError(f"{row.env}={text!r}: expected {row.kind.__name__}") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{row.env}={text}: expected a number of seconds")
    if row.least is not None and value < row.least:
        raise ConfigError(f"{row.env}={text}: the minimum is {row.least:g}")
    return value


def markdown() -> str:
    """The table as Markdown, as in `docs/settings.md`."""
    lines = ["# Settings", "", "| variable | default | what it is |", "|---|---|---|"]
    shown = (
        f"| `{r.env}` | `{r.default}` | {r.help} |" if r.default != "" else f"| `{r.env}` | | {r.help} |" for r in TABLE
    )
    return "\n".join([*lines, *shown, ""])
