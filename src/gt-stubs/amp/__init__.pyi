# Written by scripts/stubs.py.
from torch.amp import *
from gt.amp import autocast_mode as autocast_mode  # type: ignore[no-redef]
from gt.amp import grad_scaler as grad_scaler  # type: ignore[no-redef]
