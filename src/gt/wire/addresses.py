"""Addresses of a service: `tcp://HOST:PORT`, or `ipc://PATH` for a socket file in a private folder."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path

from gt.errors import ConfigError

IPC = "ipc://"
TCP = re.compile(r"tcp://([A-Za-z0-9][A-Za-z0-9._-]{0,252}):([0-9]{1,5})")
MAX_PORT = 65535
"""A service needs two ports; the workers' is the one after the clients'."""
MAX_PATH_BYTES = 107 - len(".workers~")
"""The length of `sun_path` (man 7 unix), less what the sockets of a service append to the name."""
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
FORMS = "write tcp://HOST:PORT (a port from 1 to 65534) or ipc://PATH"


def check(address: str) -> None:
    """Raises ConfigError unless the address is `tcp://HOST:PORT` or `ipc://PATH`."""
    text = address if isinstance(address, str) else ""
    if text.startswith(IPC):
        _check_path(text, path(text))
    elif (found := TCP.fullmatch(text)) is None or not 0 < int(found[2]) < MAX_PORT:
        raise ConfigError(f"{address!r} is not an address: {FORMS}")


def _check_path(address: str, place: Path) -> None:
    if CONTROL.search(address) or not place.name:
        raise ConfigError(f"{address!r} is not an address: {FORMS}")
    if not place.is_absolute():
        raise ConfigError(f"{address} depends on the working directory: write {IPC}{place.absolute()}")
    if len(os.fsencode(place)) > MAX_PATH_BYTES:
        raise ConfigError(f"{address}: a socket's path has at most {MAX_PATH_BYTES} bytes")


def check_private(address: str) -> None:
    """Raises ConfigError for an address that other users or other machines could reach."""
    check(address)
    if not address.startswith(IPC):
        if not _is_loopback(host_and_port(address)[0]):
            raise ConfigError(f"{address}: only loopback addresses are served (keys for others are not supported yet)")
        return
    folder = path(address).parent
    mode = os.stat(folder).st_mode & 0o777 if folder.is_dir() else None
    if mode is None or mode & 0o077:
        raise ConfigError(f"{folder}: the folder of an ipc socket must exist and be private (mode 0700)")


def workers(address: str) -> str:
    """The address where a service's workers connect: the next port, or the socket file beside the clients'."""
    if address.startswith(IPC):
        return address + ".workers"
    host, port = host_and_port(address)
    return f"tcp://{host}:{port + 1}"


def host_and_port(address: str) -> tuple[str, int]:
    """Host and port of a `tcp://HOST:PORT`."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return host, int(port)


def path(address: str) -> Path:
    """The socket file of an `ipc://PATH`."""
    return Path(address.removeprefix(IPC))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.IPv4Address(host).is_loopback
    except ValueError:
        return False
