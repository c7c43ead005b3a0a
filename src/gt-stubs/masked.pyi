# Written by scripts/stubs.py.
from torch.masked import *
