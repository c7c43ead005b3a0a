# Written by scripts/stubs.py.
from torch.hub import *
