# Written by scripts/stubs.py.
from torch.mps import *
