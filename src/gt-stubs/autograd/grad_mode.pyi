# Written by scripts/stubs.py.
from torch.autograd.grad_mode import *
