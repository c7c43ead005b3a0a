# Written by scripts/stubs.py.
from torch.nested import *
