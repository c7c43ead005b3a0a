# Written by scripts/stubs.py.
from torch.library import *
