# Written by scripts/stubs.py.
from torch.backends import *
from gt.backends import cuda as cuda  # type: ignore[no-redef]
from gt.backends import cudnn as cudnn  # type: ignore[no-redef]
from gt.backends import mkldnn as mkldnn  # type: ignore[no-redef]
from gt.backends import mps as mps  # type: ignore[no-redef]
