# Written by scripts/stubs.py.
from torch.utils.data import *
from gt.utils.data import dataloader as dataloader  # type: ignore[no-redef]
from gt.utils.data import dataset as dataset  # type: ignore[no-redef]
from gt.utils.data import distributed as distributed  # type: ignore[no-redef]
from gt.utils.data import sampler as sampler  # type: ignore[no-redef]
