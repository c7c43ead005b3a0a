# Written by scripts/stubs.py.
from torch.compiler import *
