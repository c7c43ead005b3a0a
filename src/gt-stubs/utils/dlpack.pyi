# Written by scripts/stubs.py.
from torch.utils.dlpack import *
