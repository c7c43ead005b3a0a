"""Starts the embedded service before torch is imported, so that the children load it at the same time."""

from __future__ import annotations

import multiprocessing

from gt.client import embedded
from gt.config import settings
from gt.errors import ConfigError
from gt.wire import addresses


class Early:
    """The service that was started at import, until the session takes it over."""

    service: embedded.Embedded | None = None


def start() -> None:
    """Start it where this process will want one: no address is set, and it is nobody's multiprocessing child.

    Raises ConfigError for a GT_ADDRESS that is none.
    """
    if address := settings().address:
        try:
            addresses.check(address)
        except ConfigError as error:
            raise ConfigError(f"GT_ADDRESS: {error}") from None
    elif multiprocessing.parent_process() is None and Early.service is None:
        Early.service = embedded.start()


def take() -> embedded.Embedded:
    """The service of this process, started now if it was not."""
    if Early.service is None:
        Early.service = embedded.start()
    return Early.service


def is_running() -> bool:
    return Early.service is not None


def stop() -> None:
    if Early.service is not None:
        Early.service.stop()
        Early.service = None


def leave_to_parent() -> None:
    """In a forked child."""
    if Early.service is not None:
        Early.service.leave()
        Early.service = None
