# Written by scripts/stubs.py.
from torch.optim.adam import *
