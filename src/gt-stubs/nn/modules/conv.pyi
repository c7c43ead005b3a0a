# Written by scripts/stubs.py.
from torch.nn.modules.conv import *
