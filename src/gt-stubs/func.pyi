# Written by scripts/stubs.py.
from torch.func import *
