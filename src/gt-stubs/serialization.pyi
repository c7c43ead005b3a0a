# Written by scripts/stubs.py.
from torch.serialization import *
