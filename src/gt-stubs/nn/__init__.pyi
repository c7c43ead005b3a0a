# Written by scripts/stubs.py.
from torch.nn import *
from gt.nn import attention as attention  # type: ignore[no-redef]
from gt.nn import functional as functional  # type: ignore[no-redef]
from gt.nn import grad as grad  # type: ignore[no-redef]
from gt.nn import init as init  # type: ignore[no-redef]
from gt.nn import modules as modules  # type: ignore[no-redef]
from gt.nn import parallel as parallel  # type: ignore[no-redef]
from gt.nn import parameter as parameter  # type: ignore[no-redef]
from gt.nn import utils as utils  # type: ignore[no-redef]
