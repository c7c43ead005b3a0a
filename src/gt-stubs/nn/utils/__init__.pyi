# Written by scripts/stubs.py.
from torch.nn.utils import *
from gt.nn.utils import clip_grad as clip_grad  # type: ignore[no-redef]
from gt.nn.utils import parametrizations as parametrizations  # type: ignore[no-redef]
from gt.nn.utils import parametrize as parametrize  # type: ignore[no-redef]
from gt.nn.utils import prune as prune  # type: ignore[no-redef]
from gt.nn.utils import rnn as rnn  # type: ignore[no-redef]
from gt.nn.utils import stateless as stateless  # type: ignore[no-redef]
