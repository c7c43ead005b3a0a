"""The table of patches: all that GT changes in PyTorch's Python (and two hooks of Python's own).

Its rows are in `rows/`; `facade/table.py` has those about the name "cpu". Rows of one owner may name a private name of
PyTorch's: then it is the one place through which all that is meant goes.
"""

from __future__ import annotations

from gt.client.patches.rows import autograd, conditional, data, device, modules

PATCHES = (*data.PATCHES, *modules.PATCHES, *autograd.PATCHES, *device.PATCHES)
"""Made when GT is imported."""
SHARDED, INSPECTED, JOINED = conditional.SHARDED, conditional.INSPECTED, conditional.JOINED
"""Made in some programs only."""
