# Written by scripts/stubs.py.
from torch.cuda import *
from gt.cuda import amp as amp  # type: ignore[no-redef]
