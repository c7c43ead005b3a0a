# Written by scripts/stubs.py.
from torch.distributions.transforms import *
