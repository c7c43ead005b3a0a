# Written by scripts/stubs.py.
from torch.autograd import *
from gt.autograd import forward_ad as forward_ad  # type: ignore[no-redef]
from gt.autograd import function as function  # type: ignore[no-redef]
from gt.autograd import functional as functional  # type: ignore[no-redef]
from gt.autograd import grad_mode as grad_mode  # type: ignore[no-redef]
from gt.autograd import graph as graph  # type: ignore[no-redef]
from gt.autograd import profiler as profiler  # type: ignore[no-redef]
