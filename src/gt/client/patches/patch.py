"""A patch: one change to PyTorch's Python, as a row of a table."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

OLDEST = "2.11"
"""The oldest torch that GT supports."""
IDIOM = "tests/oracle/test_idioms.py::test_an_idiom_gives_the_cpus_results"
PATCHED = "tests/oracle/test_patched.py"
SCRIPT = "tests/oracle/test_facade.py::test_the_same_file_prints_the_same"
"""The tests that notice most patches."""
Wrap = Callable[[Any], Any]
"""From an original to its replacement."""


@dataclass(frozen=True)
class Patch:
    """Replaces `names` of each of `owners` (dotted paths; both separated by spaces) by what `wrap` makes of the originals.

    `why` the device needs it; `since` which version of torch (in an older one, a name that is missing is passed over); and
    the `test` that fails without it (`python -m tests.patches` checks that).
    """

    owners: str
    names: str
    wrap: Wrap
    why: str
    test: str
    since: str = OLDEST

    def apply(self) -> None:
        """Replace the names."""
        for owner, name in self.targets():
            setattr(owner, name, self.wrap(getattr(owner, name)))

    def targets(self) -> Iterator[tuple[Any, str]]:
        """The owners, each with the names that this torch has or should have."""
        is_expected = _version(torch.__version__) >= _version(self.since)
        for path in self.owners.split():
            owner = _resolved(path)
            yield from ((owner, name) for name in self.names.split() if is_expected or hasattr(owner, name))


def _version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.partition("+")[0].split(".")[:2]))


def _resolved(path: str) -> Any:
    """The object at a dotted path: a module, or a class in one."""
    module, inside = path, list[str]()
    while True:
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError:
            module, _, name = module.rpartition(".")
            inside.insert(0, name)
        else:
            return functools.reduce(getattr, inside, found)


def apply(patches: Iterable[Patch]) -> None:
    """Make the changes, in order. Raises AttributeError if this torch lacks a name that it should have."""
    for patch in patches:
        patch.apply()


def for_remote(answer: Callable[..., Any]) -> Wrap:
    """The wrapper of a method: `answer(original, self, ...)` for a remote tensor or storage, else the original."""

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def method(self: Any, /, *args: Any, **kwargs: Any) -> Any:
            if self.device.type != "remote":
                return original(self, *args, **kwargs)
            return answer(original, self, *args, **kwargs)

        return method

    return wrap
