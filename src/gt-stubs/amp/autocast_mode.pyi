# Written by scripts/stubs.py.
from torch.amp.autocast_mode import *
