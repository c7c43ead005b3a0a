"""Saved files load anywhere: remote storages are written as the CPU's, with a mark that PyTorch ignores and GT restores
them by.

The marks are numbers of storages, in the order in which a file first names them. A zip archive has a record of them; a file
of the older format (which `pickle` uses too) has an entry in its dict about the system that wrote it. An exported program
names a device for each tensor: "cpu" for the client's, and "cpu:0", which PyTorch takes for the same, for a worker's.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import serialization

from gt.client.patches import storages
from gt.client.stream import devices

MARK = "gt_remote"
"""The name of the record, or of the entry."""
HEADER = 3
"""The number of objects before the saved one in the older format: a magic number, its version, the dict about the system."""
_now = threading.local()
"""State of this thread. `met`: the storages of the file being written, by address, and whether they are remote; `marked`:
the numbers of the remote ones in the file being read."""


@contextlib.contextmanager
def _doing(**what: Any) -> Iterator[None]:
    before = dict(vars(_now))
    vars(_now).update(what)
    try:
        yield
    finally:
        vars(_now).clear()
        vars(_now).update(before)


def _location(saved: Any) -> str | None:
    """The location to write for a storage. PyTorch asks this first for every storage, each time it meets one."""
    is_remote = storages.is_remote(saved)
    met = getattr(_now, "met", None)
    if met is not None:
        met.setdefault(getattr(saved, "_untyped_storage", saved)._cdata, is_remote)
    return "cpu" if is_remote else None


def _restore(loaded: Any, location: str) -> Any:
    """Move a storage that was read from a file to the worker. (Earlier versions wrote this location.)"""
    if location.partition(":")[0] != "remote":
        return None
    devices.check_index(torch.device(location))
    return storages.to_remote(loaded)


def _marked() -> list[int]:
    return [number for number, is_remote in enumerate(_now.met.values()) if is_remote]


def saving(original: Callable[..., None]) -> Callable[..., None]:
    """The patch that writes the record of marks into a zip archive."""

    @functools.wraps(original)
    def save(obj: Any, zip_file: Any, *args: Any, **kwargs: Any) -> None:
        with _doing(met={}):
            original(obj, zip_file, *args, **kwargs)
            if marked := _marked():
                text = " ".join(map(str, marked))
                zip_file.write_record(MARK, text, len(text))

    return save


def loading(original: Callable[..., Any]) -> Callable[..., Any]:
    """The patch that reads the record of marks."""

    @functools.wraps(original)
    def load(zip_file: Any, *args: Any, **kwargs: Any) -> Any:
        text = zip_file.get_record(MARK).decode() if zip_file.has_record(MARK) else ""
        with _doing(marked=set(map(int, text.split()))):
            return original(zip_file, *args, **kwargs)

    return load


def saving_legacy(original: Callable[..., None]) -> Callable[..., None]:
    """The patch that writes the marks into the header of the older format."""

    @functools.wraps(original)
    def save(obj: Any, f: Any, pickle_module: Any, pickle_protocol: int) -> None:
        with _doing(met={}):
            original(obj, f, _holding_back(pickle_module, f), pickle_protocol)

    return save


def _holding_back(pickle_module: Any, file: Any) -> SimpleNamespace:
    """A `pickle` module that delays the header until the object is written and its storages are known."""
    header: list[Any] = []
    held = io.BytesIO()

    class Pickler(pickle_module.Pickler):  # type: ignore[misc]
        def __init__(self, f: Any, protocol: int) -> None:
            super().__init__(held, protocol=protocol)

    def dump(value: Any, f: Any, protocol: int) -> None:
        if len(header) < HEADER:
            header.append(value)
            return
        if marked := _marked():
            header[-1] = {**header[-1], MARK: marked}
        for part in header:
            pickle_module.dump(part, file, protocol=protocol)
        file.write(held.getbuffer())
        pickle_module.dump(value, file, protocol=protocol)

    return SimpleNamespace(Pickler=Pickler, dump=dump)


def loading_legacy(original: Callable[..., Any]) -> Callable[..., Any]:
    """The patch that reads the marks from the header of the older format."""

    @functools.wraps(original)
    def load(f: Any, *args: Any, **kwargs: Any) -> Any:
        with _doing(marked=_marks_of_header(f)):
            return original(f, *args, **kwargs)

    return load


def _marks_of_header(file: Any) -> set[int]:
    start = file.tell()
    try:
        *_, about = [torch._weights_only_unpickler.load(file) for _ in range(HEADER)]
        return set(about.get(MARK, ()))
    except Exception:  # another format, or none: PyTorch reports that
        return set()
    finally:
        file.seek(start)


def restoring(original: Callable[..., Any]) -> Callable[..., Any]:
    """Marked storages have a remote location, for PyTorch and for a `map_location` function."""

    @functools.wraps(original)
    def get_restore_location(map_location: Any) -> Callable[[Any, str], Any]:
        restore = original(map_location)
        marked: set[int] = getattr(_now, "marked", set())
        numbers = itertools.count()
        return lambda loaded, location: restore(loaded, "remote:0" if next(numbers) in marked else location)

    return get_restore_location


def naming_devices(original: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.export.save` and `load`, which import the module that names devices."""

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        # late import: only for programs that export
        from torch._export.serde import schema, serialize
        from torch.export.pt2_archive import _package  # late import: as above

        serialize.Device = lambda type, index=None: schema.Device(*PORTABLE.get((type, index), (type, index)))  # type: ignore
        serialize.deserialize_device = _package.deserialize_device = _device  # type: ignore[assignment]
        return original(*args, **kwargs)

    return call


PORTABLE = {("remote", None): ("cpu", 0), ("remote", 0): ("cpu", 0)}


def _device(named: Any) -> torch.device:
    if (named.type, named.index) in PORTABLE.values():
        return torch.device("remote", 0)
    return torch.device(named.type) if named.index is None else torch.device(named.type, named.index)


def register() -> None:
    """Register the locations of remote storages in files."""
    serialization.register_package(5, _location, _restore)
