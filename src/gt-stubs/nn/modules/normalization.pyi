# Written by scripts/stubs.py.
from torch.nn.modules.normalization import *
