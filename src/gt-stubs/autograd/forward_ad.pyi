# Written by scripts/stubs.py.
from torch.autograd.forward_ad import *
