# Written by scripts/stubs.py.
from torch.fft import *
