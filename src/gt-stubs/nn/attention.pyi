# Written by scripts/stubs.py.
from torch.nn.attention import *
