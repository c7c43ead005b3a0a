# Written by scripts/stubs.py.
from torch.distributed import *
