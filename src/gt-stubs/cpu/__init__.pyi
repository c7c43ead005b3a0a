# Written by scripts/stubs.py.
from torch.cpu import *
from gt.cpu import amp as amp  # type: ignore[no-redef]
