# Written by scripts/stubs.py.
from torch.utils.data.distributed import *
