# Written by scripts/stubs.py.
from torch.export import *
