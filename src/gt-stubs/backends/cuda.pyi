# Written by scripts/stubs.py.
from torch.backends.cuda import *
