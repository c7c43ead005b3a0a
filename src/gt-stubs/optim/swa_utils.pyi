# Written by scripts/stubs.py.
from torch.optim.swa_utils import *
