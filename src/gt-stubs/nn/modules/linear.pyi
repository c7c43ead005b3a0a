# Written by scripts/stubs.py.
from torch.nn.modules.linear import *
