import warnings

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

x = torch.ones(2, 3)


def schedule():
    optimizer = torch.optim.SGD([nn.Parameter(x)], lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    scheduler.step()
    scheduler.step(3)


def ask_for_no_gradient():
    return (nn.Parameter(x) * 2).grad


def hook_whose_input_needs_no_gradient():
    layer = nn.Linear(3, 2)
    layer.register_full_backward_hook(lambda module, given, got: None)
    layer(x).sum().backward()


for number, warn in enumerate(
    (
        schedule,
        ask_for_no_gradient,
        hook_whose_input_needs_no_gradient,
        lambda: torch.add(x, x, out=torch.empty(5)),
        lambda: torch.cross(x, x),
        lambda: F.softmax(x),
        lambda: F.mse_loss(x, torch.ones(3)),
        lambda: F.mse_loss(x, x, size_average=False),
        lambda: torch.ones(2, 2, 2).T,
        lambda: torch.meshgrid(torch.ones(2), torch.ones(2)),
        lambda: torch.tensor(x),
        lambda: torch.tensor([np.ones(2)] * 2),
        lambda: torch.from_numpy(np.broadcast_to(np.ones(2), (2, 2))),
        lambda: x.storage(),
        lambda: x[torch.ones(2, dtype=torch.uint8)],
        lambda: nn.LSTM(2, 2, dropout=0.5),
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 4), 1),
        lambda: torch.range(0, 2),
        lambda: x.to(torch.complex64).to(torch.float64),
        lambda: torch.jit.trace(lambda x: x if x.sum() > 0 else -x, x),
        lambda: float(torch.ones(1, requires_grad=True)),
        # warnings of worker kernels, at their first run; the fetch shows them
        lambda: x[0, :1].std().item(),
        lambda: x[0, :1].var().item(),
        lambda: x.std(0, correction=2).tolist(),
        lambda: (x * 1j).to(torch.float32).tolist(),
        lambda: (x[0] * 1j).to(torch.float32).tolist(),
        lambda: torch.searchsorted(torch.arange(8.0)[::2], x[0]).tolist(),
        lambda: x.cumsum(0).index_reduce_(0, torch.tensor([0]), x[:1], "prod").tolist(),
    )
):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn()
    for w in caught:
        place = "here" if w.filename == __file__ else w.filename.rpartition("/")[2]
        print(number, w.category.__name__, place, w.lineno, str(w.message)[:60])
