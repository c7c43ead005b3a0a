"""Where a service is: `tcp://HOST:PORT`, or `ipc://PATH` for a socket file in a private folder."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from urllib.parse import urlsplit

from gt.errors import ConfigError

IPC = "ipc://"


def check(address: str) -> None:
    """Raises ConfigError for an address that is not `tcp://HOST:PORT` or `ipc://PATH`."""
    if address.startswith(IPC) and len(address) > len(IPC):
        return
    parts = urlsplit(address)
    try:
        valid = parts.scheme == "tcp" and bool(parts.hostname) and parts.port is not None and 0 < parts.port < 65535
    except ValueError:
        valid = False
    if not valid:
        raise ConfigError(f"{address!r} is no address: write tcp://HOST:PORT (a port from 1 to 65534) or ipc://PATH")


def check_private(address: str) -> None:
    """Raises ConfigError for an address that others than this user and this machine could reach."""
    check(address)
    if not address.startswith(IPC):
        if not _is_loopback(urlsplit(address).hostname or ""):
            raise ConfigError(f"{address}: only loopback addresses are served (keys for others come later)")
        return
    folder = path(address).parent
    mode = os.stat(folder).st_mode & 0o777 if folder.is_dir() else None
    if mode is None or mode & 0o077:
        raise ConfigError(f"{folder}: the folder of an ipc socket must exist and be private (mode 0700)")


def workers(address: str) -> str:
    """Where the workers of a service connect: the next port, or the socket file beside the clients'."""
    if address.startswith(IPC):
        return address + ".workers"
    host, _, port = address.rpartition(":")
    return f"{host}:{int(port) + 1}"


def path(address: str) -> Path:
    """The socket file of an `ipc://PATH`."""
    return Path(address.removeprefix(IPC))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.IPv4Address(host).is_loopback
    except ValueError:
        return False
