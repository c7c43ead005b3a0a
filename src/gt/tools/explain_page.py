"""The report of `gt explain` as one page of HTML."""

from __future__ import annotations

from gt.planning.report import Report


def page(report: Report, title: str) -> str:
    """The page."""
    raise NotImplementedError
