"""Entries of PyTorch's operator database that GT refuses, and why. This table may only shrink."""

from __future__ import annotations

REFUSED: dict[tuple[str, str], str] = {}
