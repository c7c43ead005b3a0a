# Written by scripts/stubs.py.
from torch.version import *
