# Written by scripts/stubs.py.
from torch.functional import *
