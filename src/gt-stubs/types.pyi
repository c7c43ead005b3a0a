# Written by scripts/stubs.py.
from torch.types import *
