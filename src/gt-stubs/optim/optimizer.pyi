# Written by scripts/stubs.py.
from torch.optim.optimizer import *
