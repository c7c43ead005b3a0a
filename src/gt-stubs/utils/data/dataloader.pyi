# Written by scripts/stubs.py.
from torch.utils.data.dataloader import *
