# Written by scripts/stubs.py.
from torch.backends.cudnn import *
