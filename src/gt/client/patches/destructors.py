"""What a destructor says that computes with a remote tensor when the session has ended."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


def explaining(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The patch of the hook that reports exceptions that nobody can catch.

    All that it needs is bound here, since the names in modules vanish first when the interpreter ends.
    """
    is_finalizing = sys.is_finalizing

    def unraisable(info: Any) -> None:
        if is_finalizing() and "'remote' backend" in str(info.exc_value):
            info.exc_value.args = ("a destructor computes with a remote tensor, and the session ended with the program",)
        original(info)

    return unraisable
