import numpy as np
import torch


@torch.library.custom_op("gt_test::scaled", mutates_args=())
def scaled(x: torch.Tensor, by: float) -> torch.Tensor:
    return x * by


@torch.library.custom_op("gt_test::shift", mutates_args={"x"})
def shift(x: torch.Tensor) -> None:
    x.add_(1)


scaled.register_fake(lambda x, by: torch.empty_like(x))


def keep(ctx, inputs, output):
    ctx.by = inputs[1]


scaled.register_autograd(lambda ctx, g: (g * ctx.by, None), setup_context=keep)
library = torch.library.Library("gt_test_parts", "DEF")
library.define("squared(Tensor x) -> Tensor")
library.impl("squared", lambda x: x * x, "CompositeImplicitAutograd")

library.define("shifted(Tensor x) -> Tensor")


@torch.library.impl(library, "shifted", "CPU")
def _(x):
    return x + 1


@torch.library.custom_op("gt_test::sines", mutates_args=(), device_types="cpu")
def sines(x: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.sin(x.numpy()))


x = torch.arange(3.0, requires_grad=True)
torch.ops.gt_test_parts.squared(scaled(x, 3.0)).sum().backward()
y = torch.zeros(2, 3)
shift(y[1])
print(x.grad, torch.ops.gt_test.scaled(x, 2.0), y)
print(torch.ops.gt_test_parts.shifted(y), sines(y))
