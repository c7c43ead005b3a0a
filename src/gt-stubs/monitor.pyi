# Written by scripts/stubs.py.
from torch.monitor import *
