# Written by scripts/stubs.py.
from torch.utils.flop_counter import *
