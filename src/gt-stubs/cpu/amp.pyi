# Written by scripts/stubs.py.
from torch.cpu.amp import *
