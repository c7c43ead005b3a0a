# Written by scripts/stubs.py.
from torch.backends.mkldnn import *
