# Written by scripts/stubs.py.
from torch.optim.adamw import *
