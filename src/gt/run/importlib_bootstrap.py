"""The import hook of `gt run`: who imports torch gets GT's, except for torch itself and the libraries of a table.

Python's `warnings` passes over the frames of importlib when it looks for the line that a warning is about, and knows them
by a path with "importlib" and "_bootstrap" in it. The hook is such a frame, hence this file's name.

Until a program imports torch only the standard library is used: the hook is in every Python process below `gt run`.
"""

from __future__ import annotations

import builtins
import importlib
import importlib.util
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from types import ModuleType, TracebackType
from typing import Any

PLAIN = {
    "torch": "GT's names lead to it",
    "torchgen": "a part of torch",
    "functorch": "a part of torch",
    "gt": "it makes the names",
    "importlib": "modules in C import while it loads them",
    "dill": "it pickles a class by its name if it finds the same one there",
    "safetensors": "its Rust code makes tensors on the CPU, by torch itself; GT patches what saves them",
}
"""Packages that get torch itself, with the reason."""
MIRROR = "gt.facade.whole_program"
HOME = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
"""The folder that has the package `gt`."""

_import = builtins.__import__
_import_module = importlib.import_module
_excepthook = sys.excepthook

_begun: list[bool] = []
"""Not empty once GT has been imported."""
_beginning: set[int] = set()
"""The threads that are importing it."""


def is_given_gt(namespace: Mapping[str, Any]) -> bool:
    """Whether the module with these globals gets GT's torch: all do but those of the table."""
    return str(namespace.get("__name__")).partition(".")[0] not in PLAIN


def is_torch(name: str) -> bool:
    """Whether a module is torch or one of its own."""
    return name == "torch" or name.startswith("torch.")


def import_(
    name: str,
    globals: Mapping[str, Any] | None = None,
    locals: Mapping[str, Any] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> Any:
    """`__import__`, which every import statement calls."""
    if level or not is_torch(name):
        return _import(name, globals, locals, fromlist, level)  # type: ignore[arg-type]
    namespace = _named(globals)
    mirror = _mirror(namespace)
    found = _import(name, globals, locals, fromlist, level)  # type: ignore[arg-type]
    if mirror is None or any(wanted != "*" and not hasattr(found, wanted) for wanted in fromlist or ()):
        return found  # where a name is missing, Python's error is about torch
    whole = mirror.of(name)
    return whole if fromlist else mirror.of("torch")


def import_module(name: str, package: str | None = None) -> ModuleType:
    """`importlib.import_module`."""
    absolute = importlib.util.resolve_name(name, package) if name.startswith(".") and package else name
    mirror = _mirror(_named(None)) if is_torch(absolute) else None
    found = _import_module(name, package)
    return found if mirror is None else mirror.of(absolute)  # type: ignore[no-any-return]


def _named(given: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The globals of the module that imports: of the nearest caller that has a name, where none are given or they have none
    (code that is made as text is executed in such)."""
    frame = sys._getframe(2)
    namespace = frame.f_globals if given is None else given
    while "__name__" not in namespace and frame.f_back is not None:
        frame = frame.f_back
        namespace = frame.f_globals
    return namespace


def _mirror(namespace: Mapping[str, Any]) -> Any:
    """GT's mirror of torch for a module that gets it, else None. GT is imported before torch, whoever wants that first."""
    if str(namespace.get("__name__")).partition(".")[0] in ("torch", "torchgen", "functorch", "gt"):
        return None
    if not _begun:
        if threading.get_ident() in _beginning:
            return None
        _begin()
    return sys.modules[MIRROR] if is_given_gt(namespace) else None


def _begin() -> None:
    """Import GT. What imports torch meanwhile in this thread, on its behalf, gets torch itself."""
    _refuse_many_processes()
    _find_gt()
    _beginning.add(threading.get_ident())
    try:
        _import_module(MIRROR).decides(is_given_gt)
        _begun.append(True)
    finally:
        _beginning.discard(threading.get_ident())


def _find_gt() -> None:
    """Raises ImportError where another module hides GT's package: a program may have a `gt.py`."""
    spec = importlib.util.find_spec("gt")
    if spec is None:
        sys.path.append(HOME)
        return
    place = os.path.join(HOME, "gt")
    if os.path.realpath(os.path.dirname(spec.origin or "")) != os.path.realpath(place):
        raise ImportError(f"gt run: this program's module `gt` ({spec.origin}) hides GT's ({place}); rename it", name="gt")


def _refuse_many_processes() -> None:
    count = os.environ.get("WORLD_SIZE", "1")
    if "TORCHELASTIC_RUN_ID" in os.environ and count != "1":
        raise RuntimeError(
            f"gt run: torchrun has started {count} processes of this program, each of which would have workers of its own."
            " Run one process (--nproc-per-node 1, --nnodes 1); GT_CONFIG places its tensors on several workers"
            " (docs/sharding.md)"
        )


def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """`sys.excepthook`: an error that ends the program is printed without the frames of this file."""
    _clean(error, set())
    _excepthook(kind, error, error.__traceback__)


def _clean(error: BaseException | None, seen: set[int]) -> None:
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    error.__traceback__ = _without_own(error.__traceback__)
    _clean(error.__cause__, seen)
    _clean(error.__context__, seen)


def _without_own(trace: TracebackType | None) -> TracebackType | None:
    first = last = None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename != __file__:
            if last is None:
                first = trace
            else:
                last.tb_next = trace
            last = trace
        trace = trace.tb_next
    if last is not None:
        last.tb_next = None
    return first


def install() -> None:
    """Hook imports from now on."""
    if builtins.__import__ is not import_:
        builtins.__import__ = import_
        importlib.import_module = import_module
        sys.excepthook = report
