# Written by scripts/stubs.py.
from torch.utils.hooks import *
