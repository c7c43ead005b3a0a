# Written by scripts/stubs.py.
from torch.nn.utils.clip_grad import *
