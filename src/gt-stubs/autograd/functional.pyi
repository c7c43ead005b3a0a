# Written by scripts/stubs.py.
from torch.autograd.functional import *
