# Written by scripts/stubs.py.
from torch.nn.functional import *
