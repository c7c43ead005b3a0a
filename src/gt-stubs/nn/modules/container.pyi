# Written by scripts/stubs.py.
from torch.nn.modules.container import *
