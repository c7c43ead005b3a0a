# Written by scripts/stubs.py.
from torch.nn.utils.parametrizations import *
