# Written by scripts/stubs.py.
from torch.utils.data.dataset import *
