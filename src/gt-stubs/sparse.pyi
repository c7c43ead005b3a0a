# Written by scripts/stubs.py.
from torch.sparse import *
