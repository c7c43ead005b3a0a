"""Starts the embedded service before torch is imported, so that the service's processes import it at the same time."""

from __future__ import annotations

import multiprocessing

from gt.client.session import embedded
from gt.client.session.configured import configured
from gt.config import settings
from gt.errors import ConfigError
from gt.wire import addresses


class EarlyStart:
    """The embedded service of this process, if it has one: started at import, or when the first session asks for it."""

    def __init__(self) -> None:
        self._service: embedded.Embedded | None = None

    def start(self) -> None:
        """Start the service if this process will need one: no address is set, and it is not a child of `multiprocessing`.

        Raises ConfigError for a GT_ADDRESS that is not an address.
        """
        if address := settings().address:
            try:
                addresses.check(address)
            except ConfigError as error:
                raise ConfigError(f"GT_ADDRESS: {error}") from None
        elif multiprocessing.parent_process() is None:
            self.take()

    def take(self) -> embedded.Embedded:
        """The service of this process, started now if it has not been. Raises ConfigError for too small a GT_WORKERS."""
        if self._service is None:
            self._service = embedded.start(self._workers())
        return self._service

    def _workers(self) -> int:
        """How many workers the service gets: what GT_WORKERS says, else those of the mesh; 0: the service's own choice.

        Raises ConfigError where GT_WORKERS says fewer than the mesh needs.
        """
        given, sharding = settings().workers, configured.sharding
        if sharding is None:
            return given
        if given and given < sharding.workers_needed:
            raise ConfigError(
                f"{sharding.need}, GT_WORKERS={given} starts {given}; without GT_WORKERS there are as many as it needs"
            )
        return given or sharding.workers_needed

    def start_anew(self) -> None:
        """Start the service with other workers: a configuration was loaded that needs more of them. Raises as `take`."""
        if self._service is not None:
            workers = self._workers()
            self.stop()
            self._service = embedded.start(workers)

    def is_running(self) -> bool:
        """Whether this process has a service."""
        return self._service is not None

    def stop(self) -> None:
        """End the service, if there is one."""
        if self._service is not None:
            self._service.stop()
            self._service = None

    def leave_to_parent(self) -> None:
        """In a forked child: the service is the parent's."""
        if self._service is not None:
            self._service.leave()
            self._service = None


early = EarlyStart()
