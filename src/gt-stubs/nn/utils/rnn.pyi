# Written by scripts/stubs.py.
from torch.nn.utils.rnn import *
