# Written by scripts/stubs.py.
from torch.accelerator import *
