# Written by scripts/stubs.py.
from torch.storage import *
