# Written by scripts/stubs.py.
from torch.signal import *
from gt.signal import windows as windows  # type: ignore[no-redef]
