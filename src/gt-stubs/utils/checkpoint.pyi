# Written by scripts/stubs.py.
from torch.utils.checkpoint import *
