# Written by scripts/stubs.py.
from torch.linalg import *
