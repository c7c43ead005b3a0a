# Written by scripts/stubs.py.
from torch.special import *
