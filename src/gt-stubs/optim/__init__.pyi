# Written by scripts/stubs.py.
from torch.optim import *
from gt.optim import adam as adam  # type: ignore[no-redef]
from gt.optim import adamw as adamw  # type: ignore[no-redef]
from gt.optim import lr_scheduler as lr_scheduler  # type: ignore[no-redef]
from gt.optim import optimizer as optimizer  # type: ignore[no-redef]
from gt.optim import sgd as sgd  # type: ignore[no-redef]
from gt.optim import swa_utils as swa_utils  # type: ignore[no-redef]
