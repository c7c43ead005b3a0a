# Written by scripts/stubs.py.
from torch.overrides import *
