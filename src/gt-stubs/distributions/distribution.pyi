# Written by scripts/stubs.py.
from torch.distributions.distribution import *
