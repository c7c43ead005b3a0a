# Written by scripts/stubs.py.
from torch.testing import *
