# Written by scripts/stubs.py.
from torch.quasirandom import *
