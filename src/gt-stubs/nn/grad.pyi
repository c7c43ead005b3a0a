# Written by scripts/stubs.py.
from torch.nn.grad import *
