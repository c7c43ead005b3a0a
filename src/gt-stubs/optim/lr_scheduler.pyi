# Written by scripts/stubs.py.
from torch.optim.lr_scheduler import *
