# Written by scripts/stubs.py.
from torch.distributions.constraints import *
