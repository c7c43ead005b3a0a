# Written by scripts/stubs.py.
from torch.utils import *
from gt.utils import benchmark as benchmark  # type: ignore[no-redef]
from gt.utils import checkpoint as checkpoint  # type: ignore[no-redef]
from gt.utils import data as data  # type: ignore[no-redef]
from gt.utils import dlpack as dlpack  # type: ignore[no-redef]
from gt.utils import flop_counter as flop_counter  # type: ignore[no-redef]
from gt.utils import hooks as hooks  # type: ignore[no-redef]
