# Written by scripts/stubs.py.
from torch.futures import *
