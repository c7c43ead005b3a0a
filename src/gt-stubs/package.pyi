# Written by scripts/stubs.py.
from torch.package import *
