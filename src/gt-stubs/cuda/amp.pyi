# Written by scripts/stubs.py.
from torch.cuda.amp import *
