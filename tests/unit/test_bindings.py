"""Each function that a worker calls in place of an operator calls that very overload, with the same bits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gt.worker.operators.bindings import FUNCTIONS, quickest

aten = torch.ops.aten
X = torch.linspace(0.1, 2, 24).view(2, 3, 4)
M = X[0, :2, :3].clone()
ARGUMENTS: dict[Any, tuple[Any, ...]] = {
    aten.addmm.default: (X[0, 0], M, X[0]),
    aten.bmm.default: (X, X.mT),
    aten.cat.default: ([X, X], 1),
    aten.embedding.default: (M, torch.tensor([0, 1])),
    aten.eq.Scalar: (X, 2),
    aten.linear.default: (X, X[0], M.new_ones(3)),
    aten.mean.dim: (X, [-1], True),
    aten.mm.default: (M, X[0]),
    aten.pow.Tensor_Scalar: (X, 2),
    aten.sum.dim_IntList: (X, [0, 2]),
}


class Seen(TorchDispatchMode):
    """Notes the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls.append(func)
        return func(*args, **(kwargs or {}))


def _arguments(op: Any) -> tuple[Any, ...]:
    tensors = [a for a in op._schema.arguments if str(a.type) == "Tensor"]
    return ARGUMENTS.get(op) or (X,) * len(tensors)


@pytest.mark.parametrize("op", FUNCTIONS, ids=lambda op: op.name())
def test_a_function_calls_its_operator(op: Any) -> None:
    args = _arguments(op)
    with Seen() as seen, torch.no_grad():
        found = FUNCTIONS[op](*args)
    with Seen() as expected, torch.no_grad():
        again = op(*args)
    assert seen.calls == expected.calls
    assert torch.equal(found, again)


@pytest.mark.parametrize("op", [aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor])
@pytest.mark.parametrize("number", [2, 0.5, 2**60, True, 1j])
def test_a_number_in_place_of_a_tensor_is_promoted_alike(op: Any, number: Any) -> None:
    for x in (X, X.to(torch.bfloat16), torch.arange(4), torch.tensor(3)):
        if number is True and op is aten.sub.Tensor:
            continue  # PyTorch has no such subtraction
        found, expected = quickest(op)(x, number), op(x, number)
        assert found.dtype is expected.dtype
        assert torch.equal(found, expected)
