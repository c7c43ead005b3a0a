"""A worker that a service started ends with it, whatever it is doing."""

from __future__ import annotations

import os
import signal
import threading
import time

PARENT_POLL_S = 0.5


def end_with(parent: int) -> None:
    """From now on this process ends when its parent `parent` has ended, or asks it to: also while it imports or computes."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_S)
    os._exit(0)
