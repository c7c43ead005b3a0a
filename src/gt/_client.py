"""`import gt` in a client's process: starts the embedded service, registers the device, installs the facade."""

from __future__ import annotations

import sys

from gt.client.session.early_start import early

# The service's processes import torch while this one does: start them first.
early.start()

import torch  # noqa: E402

from gt.client import device  # noqa: E402
from gt.client.session.process import process  # noqa: E402
from gt.client.stream.scopes import scope  # noqa: E402

device.install()

from gt import debug, files  # noqa: E402
from gt.facade import mirror  # noqa: E402

mirror.install()

__all__ = ["connect", "debug", "disconnect", "files", "scope"]


def connect(address: str, timeout_s: float | None = None) -> None:
    """Join the service at `address` (`tcp://HOST:PORT` or `ipc://PATH`). The tensors of an earlier session are lost.

    Raises ConnectionLostError within `timeout_s` seconds (default: the setting `connect_timeout_s`).
    """
    process.join(address, timeout_s)


def disconnect() -> None:
    """End the session. Its tensors are gone; the next operation opens a new one."""
    process.close()


def lookup(name: str) -> object:
    """The value of `gt.name` for a name of torch (PEP 562)."""
    package = sys.modules["gt"]
    value = mirror.resolve(torch, "gt", name)
    setattr(package, name, value)
    return value


def names() -> list[str]:
    return sorted({*dir(torch), *vars(sys.modules["gt"])})
