# Written by scripts/stubs.py.
from torch.amp.grad_scaler import *
