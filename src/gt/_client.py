"""What `import gt` does in a client's process: starts the embedded service, registers the device, opens the facade."""

from __future__ import annotations

# The children load torch while this process does: start them before it is imported.
from gt.client import early

early.start()

import torch  # noqa: E402

import gt  # noqa: E402
from gt.client import current, device  # noqa: E402
from gt.client.scopes import scope  # noqa: E402

device.install()

from gt import debug, facade, files  # noqa: E402

facade.install()

__all__ = ["connect", "debug", "disconnect", "files", "scope"]


def connect(address: str, timeout_s: float | None = None) -> None:
    """Join the service at `address` (`tcp://HOST:PORT` or `ipc://PATH`); what an earlier session held is lost.

    Raises ConnectionLostError within `timeout_s` seconds (default: the setting `connect_timeout_s`).
    """
    current.join(address, timeout_s)


def disconnect() -> None:
    """End the session. Its tensors are gone; the next operation opens a new one."""
    current.close()


def lookup(name: str) -> object:
    """A name of torch, as `gt` has it (PEP 562)."""
    value = facade.resolve(torch, "gt", name)
    setattr(gt, name, value)
    return value


def names() -> list[str]:
    return sorted({*dir(torch), *vars(gt)})
