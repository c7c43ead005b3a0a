"""Words of a peer's, before a terminal gets them: what cannot be seen in them, a terminal may obey."""

from __future__ import annotations


def printable(text: str, kept: str = "") -> str:
    """With an escape, as Python writes it, for each character that shows nothing and is not one of `kept`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in text)
