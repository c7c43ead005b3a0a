# Written by scripts/stubs.py.
from torch.signal.windows import *
