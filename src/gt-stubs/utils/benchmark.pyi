# Written by scripts/stubs.py.
from torch.utils.benchmark import *
