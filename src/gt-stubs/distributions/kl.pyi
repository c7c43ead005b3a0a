# Written by scripts/stubs.py.
from torch.distributions.kl import *
