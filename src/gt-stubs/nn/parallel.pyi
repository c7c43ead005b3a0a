# Written by scripts/stubs.py.
from torch.nn.parallel import *
