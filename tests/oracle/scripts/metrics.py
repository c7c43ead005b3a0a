import types

import torch

# As libraries of metrics do: a module whose states are plain attributes, made where nobody named a device.
library = types.ModuleType("library")
exec(
    """import torch

class Mean(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.total, self.count = torch.tensor(0.0), torch.zeros(1, dtype=torch.int64)

    def _apply(self, function, *args):
        self.total, self.count = function(self.total), function(self.count)
        return super()._apply(function, *args)

    def update(self, values):
        self.total += values.sum()
        self.count += values.numel()

    def compute(self):
        return self.total / self.count
""",
    library.__dict__,
)
x = torch.arange(6.0)
for device in ("cpu", x.device):
    metric = library.Mean().to(device)
    metric.update(x)
    metric.update(x * 2)
    print(metric.compute(), metric.compute().device == x.device)
