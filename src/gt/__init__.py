"""GT: PyTorch whose tensors live on a shared pool of workers.

`import gt` registers the device `remote`; `import gt as torch` ports a script: every name of torch is here, factories
and modules are remote by default. `gt.connect(address)` joins a running service; without it an embedded one serves.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from gt import collector

__version__ = "0.1.0"


def _is_server() -> bool:
    """Whether this process is a dispatcher, a worker or the `gt` command, none of which needs the device."""
    if os.environ.get("GT_ROLE") in ("dispatcher", "worker") or os.path.basename(sys.argv[0]) == "gt":
        return True
    module = sys.orig_argv[sys.orig_argv.index("-m") + 1] if sys.argv[0] == "-m" and "-m" in sys.orig_argv else ""
    return module == "gt" or module.startswith("gt.")


if TYPE_CHECKING or not _is_server():
    with collector.paused():
        from gt._client import *  # noqa: F403
    from gt._client import lookup as __getattr__  # noqa: F401
    from gt._client import names as __dir__  # noqa: F401
