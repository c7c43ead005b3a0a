# Written by scripts/stubs.py.
from torch.optim.sgd import *
