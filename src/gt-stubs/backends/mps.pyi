# Written by scripts/stubs.py.
from torch.backends.mps import *
