# Written by scripts/stubs.py.
from torch.random import *
