# Written by scripts/stubs.py.
from torch.nn.init import *
