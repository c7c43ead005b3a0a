"""Escapes for a peer's words before they reach a terminal, which might obey invisible characters."""

from __future__ import annotations


def printable(text: str, kept: str = "") -> str:
    """The text with Python's escape for each character that is not printable and not in `kept`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in text)
