# Written by scripts/stubs.py.
from torch.fx import *
