"""Sparse tensors behave on the remote device as on the CPU, to the bit: values, layout, gradients, errors."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_leaves

import gt  # noqa: F401 - registers the device

Tensor = torch.Tensor
FLOATS = (torch.float32, torch.float64, torch.complex64)
INDICES = {
    "coalesced": [[0, 0, 1, 3, 3, 3], [1, 4, 2, 0, 1, 4]],
    "uncoalesced": [[3, 0, 1, 3, 0, 3, 3], [1, 4, 2, 1, 0, 4, 1]],
    "empty": [[], []],
}


class Operands:
    """Operands for the cases, of one dtype, on one device: the same elements on every device."""

    def __init__(self, device: str, dtype: torch.dtype, kind: str = "coalesced", requires_grad: bool = False) -> None:
        self.device, self.dtype, self.kind, self.requires_grad = device, dtype, kind, requires_grad
        self.generator = torch.Generator().manual_seed(1)
        self.made: list[Tensor] = []

    def dense(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        dtype = dtype or self.dtype
        if dtype.is_floating_point or dtype.is_complex:
            return self._moved(torch.randn(shape, dtype=dtype, generator=self.generator))
        return self._moved(torch.randint(-3, 4, shape, generator=self.generator).to(dtype))

    def sparse(
        self, *dense: int, kind: str = "", size: tuple[int, ...] = (4, 5), dtype: torch.dtype | None = None
    ) -> Tensor:
        """Sparse in the dims of `size`, the first two with the indices of the kind; values have `dense` sizes."""
        kind = kind or self.kind
        rows, columns = torch.tensor(INDICES[kind], dtype=torch.int64)
        extra = [torch.arange(len(rows)) * (d + 2) % n for d, n in enumerate(size[2:])]
        values = Operands("cpu", dtype or self.dtype).dense(len(rows), *dense)
        indices = torch.stack([rows % size[0], columns % size[1], *extra][: len(size)])
        made = torch.sparse_coo_tensor(indices, values, (*size, *dense))
        return self._moved(made.coalesce() if kind == "coalesced" else made)

    def _moved(self, tensor: Tensor) -> Tensor:
        moved = tensor.to(self.device)
        moved.requires_grad_(self.requires_grad and (tensor.dtype.is_floating_point or tensor.dtype.is_complex))
        self.made.append(moved)
        return moved


def gradients(result: Any, operands: Operands) -> list[Any]:
    """Gradients of all operands, from a weighted sum of the results."""
    made = [t for t in tree_leaves(result) if isinstance(t, Tensor) and t.grad_fn is not None]
    weights = torch.Generator().manual_seed(2)
    for t in made:
        weight = torch.randn(t.shape, dtype=t.dtype, generator=weights).to(operands.device)
        total = (t.to_dense() * weight).sum()
        (total.real + 2 * total.imag if t.is_complex() else total).backward(retain_graph=True)
    return [t.grad for t in operands.made]


Case = Callable[[Operands], Any]


def outcome(case: Case, operands: Operands) -> list[Any]:
    """The results of a case, with its operands' gradients if required; or the type of its error."""
    try:
        result = case(operands)
        found = tree_leaves((result, gradients(result, operands) if operands.requires_grad else []))
        return [parts(leaf) for leaf in found]
    except Exception as error:
        return [type(error), *([str(error)] if operands.device == "remote" else [])]


def parts(value: Any) -> Any:
    """Everything observable about a tensor."""
    if not isinstance(value, Tensor):
        return value
    value = value.detach()
    told = [value.layout, value.shape, value.dtype]
    if value.layout is torch.strided:
        return [*told, value.stride(), value.cpu()]
    if value.layout is torch.sparse_coo:
        return [*told, value.is_coalesced(), value.sparse_dim(), value._indices().cpu(), value._values().cpu()]
    whole = value.cpu()
    rows = whole.layout in (torch.sparse_csr, torch.sparse_bsr)
    indices = (whole.crow_indices(), whole.col_indices()) if rows else (whole.ccol_indices(), whole.row_indices())
    return [*told, *indices, whole.values()]


def compare(case: Case, dtype: torch.dtype, kind: str, requires_grad: bool) -> None:
    expected, got = (outcome(case, Operands(device, dtype, kind, requires_grad)) for device in ("cpu", "remote"))
    if isinstance(expected[0], type):
        assert expected[0] is got[0], got
        return
    assert not isinstance(got[0], type), got
    for a, b in zip(tree_leaves(expected), tree_leaves(got), strict=True):
        if isinstance(a, Tensor):
            torch.testing.assert_close(b, a, rtol=0, atol=0, equal_nan=True)
        else:
            assert a == b, (expected, got)


def compare_all(case: Case, dtypes: Sequence[torch.dtype] = FLOATS) -> None:
    for dtype, kind, requires_grad in itertools.product(dtypes, INDICES, (False, True)):
        try:
            compare(case, dtype, kind, requires_grad)
        except BaseException as error:
            error.add_note(f"of {dtype}, {kind}, {'with' if requires_grad else 'without'} gradients")
            raise


PRODUCTS: dict[str, Case] = {
    "torch.sparse.mm": lambda o: torch.sparse.mm(o.sparse(), o.dense(5, 3)),
    "@": lambda o: o.sparse() @ o.dense(5, 3),
    "mm": lambda o: torch.mm(o.sparse(), o.dense(5, 3)),
    "matmul": lambda o: torch.matmul(o.sparse(), o.dense(5, 3)),
    "dense @ sparse": lambda o: o.dense(3, 4) @ o.sparse(),
    "sparse.mm of a dense and a sparse": lambda o: torch.sparse.mm(o.dense(3, 4), o.sparse()),
    "a dense one laid out by columns": lambda o: torch.sparse.mm(o.sparse(), o.dense(3, 5).t()),
    "transposed": lambda o: torch.sparse.mm(o.sparse().t(), o.dense(4, 3)),
    "twice": lambda o: torch.sparse.mm(o.sparse(), torch.sparse.mm(o.sparse().t(), o.dense(4, 3))),
    "a column": lambda o: torch.sparse.mm(o.sparse(), o.dense(5, 1)),
    "no columns": lambda o: torch.sparse.mm(o.sparse(), o.dense(5, 0)),
    "no rows": lambda o: torch.sparse.mm(o.sparse(kind="empty", size=(0, 5)), o.dense(5, 2)),
    "mv": lambda o: torch.mv(o.sparse(), o.dense(5)),
    "@ vector": lambda o: o.sparse() @ o.dense(5),
    "vector @": lambda o: o.dense(4) @ o.sparse(),
    "addmm": lambda o: torch.addmm(o.dense(4, 3), o.sparse(), o.dense(5, 3), beta=0.5, alpha=2),
    "addmm without scales": lambda o: torch.addmm(o.dense(4, 3), o.sparse(), o.dense(5, 3)),
    "addmm with a row": lambda o: torch.addmm(o.dense(3), o.sparse(), o.dense(5, 3)),
    "addmm with a nan that counts for nothing": lambda o: torch.addmm(
        o.dense(4, 3) * float("nan"), o.sparse(), o.dense(5, 3), beta=0
    ),
    "addmm_": lambda o: (o.dense(4, 3) * 1).addmm_(o.sparse(), o.dense(5, 3), beta=0.5),
    "torch.sparse.addmm": lambda o: torch.sparse.addmm(o.dense(4, 3), o.sparse(), o.dense(5, 3), beta=0.5, alpha=2),
    "bmm": lambda o: torch.bmm(o.sparse(size=(4, 5, 3)), o.dense(4, 3, 2)),
    "batches @": lambda o: o.sparse(size=(4, 5, 3)) @ o.dense(4, 3, 2),
    "smm": lambda o: torch.smm(o.sparse(), o.dense(5, 3)),
    "hspmm": lambda o: torch.hspmm(o.sparse(), o.dense(5, 3)),
    "sspaddmm": lambda o: torch.sspaddmm(o.sparse(size=(4, 3)), o.sparse(), o.dense(5, 3)),
    "from values": lambda o: torch.sparse.mm(
        torch.sparse_coo_tensor(torch.tensor(INDICES["uncoalesced"], device=o.device), o.dense(7), (4, 5)), o.dense(5, 3)
    ),
    "linear": lambda o: torch.nn.functional.linear(o.sparse(), o.dense(3, 5)),
    "linear with a bias": lambda o: torch.nn.functional.linear(o.sparse(), o.dense(3, 5), o.dense(3)),
    "sparse and sparse": lambda o: torch.sparse.mm(o.sparse(), o.sparse(size=(5, 3))),
    "sparse @ sparse": lambda o: o.sparse() @ o.sparse(size=(5, 3)),
    "with itself transposed": lambda o: torch.sparse.mm(o.sparse(), o.sparse().t()),
    "with an empty one": lambda o: torch.sparse.mm(o.sparse(), o.sparse(kind="empty", size=(5, 3))),
    "where nothing meets": lambda o: torch.sparse.mm(o.sparse(size=(4, 9)), o.sparse(size=(9, 3)).mul(0)),
    "a chain": lambda o: torch.sparse.mm(torch.sparse.mm(o.sparse(), o.sparse(size=(5, 3))), o.dense(3, 2)),
    "a chain of sparse ones": lambda o: torch.sparse.mm(torch.sparse.mm(o.sparse(), o.sparse().t()), o.sparse()),
}  # fmt: skip


@pytest.mark.parametrize("name", PRODUCTS)
def test_products(name: str) -> None:
    compare_all(PRODUCTS[name])


MISTAKES: dict[str, Case] = {
    "inner sizes": lambda o: torch.sparse.mm(o.sparse(), o.dense(4, 3)),
    "inner sizes of mm": lambda o: torch.mm(o.sparse(), o.dense(4, 3)),
    "inner sizes of mv": lambda o: torch.mv(o.sparse(), o.dense(4)),
    "inner sizes of bmm": lambda o: torch.bmm(o.sparse(size=(4, 5, 3)), o.dense(4, 2, 2)),
    "batches of bmm": lambda o: torch.bmm(o.sparse(size=(4, 5, 3)), o.dense(3, 3, 2)),
    "dtypes": lambda o: torch.sparse.mm(o.sparse(), o.dense(5, 3, dtype=torch.float16)),
    "dtypes of mm": lambda o: torch.mm(o.sparse(), o.dense(5, 3, dtype=torch.int64)),
    "dtypes of bmm": lambda o: torch.bmm(o.sparse(size=(4, 5, 3)), o.dense(4, 3, 2, dtype=torch.int64)),
    "dtypes of addmm": lambda o: torch.addmm(o.dense(4, 3, dtype=torch.int64), o.sparse(), o.dense(5, 3)),
    "three dims": lambda o: torch.sparse.mm(o.sparse(), o.dense(2, 5, 3)),
    "a vector": lambda o: torch.sparse.mm(o.sparse(), o.dense(5)),
    "hybrid": lambda o: torch.sparse.mm(o.sparse(2), o.dense(5, 3)),
    "hybrid of one sparse dim": lambda o: torch.sparse.mm(o.sparse(5, size=(4,)), o.dense(5, 3)),
    "a row that does not fit": lambda o: torch.addmm(o.dense(2), o.sparse(), o.dense(5, 3)),
    "dense addmm sparse": lambda o: torch.addmm(o.dense(3, 5), o.dense(3, 4), o.sparse()),
    "bmm of dense and sparse": lambda o: torch.bmm(o.dense(4, 2, 5), o.sparse(size=(4, 5, 3))),
    "sparse.mm of two dense ones": lambda o: torch.sparse.mm(o.dense(4, 2), o.dense(2, 4)),
    "inner sizes of sparse ones": lambda o: torch.sparse.mm(o.sparse(), o.sparse()),
    "dtypes of sparse ones": lambda o: torch.sparse.mm(o.sparse(), o.sparse(size=(5, 3), dtype=torch.float16)),
    "whole numbers": lambda o: torch.sparse.mm(o.sparse(dtype=torch.int64), o.sparse(size=(5, 3), dtype=torch.int64)),
    "hybrid ones": lambda o: torch.sparse.mm(o.sparse(2), o.sparse(size=(5, 3))),
    "inner sizes of hspmm": lambda o: torch.hspmm(o.sparse(), o.dense(4, 3)),
    "sizes of sspaddmm": lambda o: torch.sspaddmm(o.sparse(), o.sparse(), o.dense(5, 3)),
    "a reduction": lambda o: torch.sparse.mm(o.sparse(), o.dense(5, 3), "mean"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_raise_what_they_raise_on_the_cpu(name: str) -> None:
    compare_all(MISTAKES[name])


ARITHMETIC: dict[str, Case] = {
    "+": lambda o: o.sparse() + o.sparse(kind="uncoalesced"),
    "-": lambda o: o.sparse() - o.sparse(kind="uncoalesced"),
    "sub with a factor": lambda o: torch.sub(o.sparse(), o.sparse(kind="coalesced"), alpha=2),
    "sub_": lambda o: (o.sparse() * 1).sub_(o.sparse()),
    "* itself": lambda o: (lambda s: s * s)(o.sparse()),
    "- of two coalesced ones": lambda o: o.sparse(kind="coalesced") - o.sparse(kind="coalesced"),
    "dense + sparse": lambda o: o.dense(5, 4).t() + o.sparse(),
    "dense - sparse": lambda o: o.dense(4, 5) - o.sparse(),
    "*": lambda o: o.sparse() * o.sparse(),
    "* coalesced": lambda o: o.sparse() * o.sparse(kind="coalesced"),
    "* uncoalesced": lambda o: o.sparse() * o.sparse(kind="uncoalesced"),
    "* elements of few places in common": lambda o: o.sparse() * torch.roll(o.dense(4, 5), 1, 1).relu().to_sparse(),
    "hybrid * hybrid": lambda o: o.sparse(3) * o.sparse(3, kind="coalesced"),
    "* of another dtype": lambda o: o.sparse() * o.sparse(dtype=torch.float64),
    "* dense": lambda o: o.sparse() * o.dense(4, 5),
    "dense *": lambda o: o.dense(4, 5) * o.sparse(),
    "* dense of another dtype": lambda o: o.sparse() * o.dense(4, 5, dtype=torch.float64),
    "* a row": lambda o: o.sparse() * o.dense(5),
    "* a column": lambda o: o.sparse() * o.dense(4, 1),
    "* one in a row": lambda o: o.sparse() * o.dense(1),
    "* a tensor of no dims": lambda o: o.sparse() * o.dense(),
    "a tensor of no dims *": lambda o: o.dense() * o.sparse(),
    "* batches": lambda o: o.sparse() * o.dense(2, 4, 5),
    "* batches of columns": lambda o: o.sparse() * o.dense(2, 4, 1),
    "hybrid * dense": lambda o: o.sparse(3) * o.dense(4, 5, 3),
    "hybrid * a row": lambda o: o.sparse(3) * o.dense(3),
    "hybrid * columns": lambda o: o.sparse(3) * o.dense(4, 5, 1),
    "hybrid * a column": lambda o: o.sparse(3) * o.dense(5, 1),
    "* what does not fit": lambda o: o.sparse() * o.dense(3, 5),
    "* of another size": lambda o: o.sparse() * o.sparse(size=(4, 3)),
    "mul_": lambda o: (o.sparse() * 1).mul_(o.sparse()),
    "mul_ by uncoalesced": lambda o: (o.sparse() * 1).mul_(o.sparse(kind="uncoalesced")),
    "mul_ of a dense one": lambda o: (o.dense(4, 5) * 1).mul_(o.sparse()),
    "mul_ by a number": lambda o: (o.sparse() * 1).mul_(3),
    "mul_ by what is wider": lambda o: (o.sparse(dtype=torch.int64) * 1).mul_(0.5),
    "* a sparse one of no dims": lambda o: o.sparse() * o.dense().detach().to_sparse(),
    "a sparse one of no dims *": lambda o: o.dense().detach().to_sparse() * o.sparse(),
    "bool - bool": lambda o: o.sparse().detach().bool() - o.sparse().detach().bool(),
    "/ a number": lambda o: o.sparse() / 3,
    "/ a tensor of no dims": lambda o: o.sparse() / o.dense(),
    "div_": lambda o: (o.sparse() * 1).div_(3),
    "/ sparse": lambda o: o.sparse() / o.sparse(),
    "/ dense": lambda o: o.sparse() / o.dense(4, 5),
    "dense /": lambda o: o.dense(4, 5) / o.sparse(),
    "1 /": lambda o: 1 / o.sparse(),
    "// a number": lambda o: o.sparse() // 2,
    "div, rounded": lambda o: torch.div(o.sparse(), 2, rounding_mode="trunc"),
    "+ a number": lambda o: o.sparse() + 1,
    "+ dense": lambda o: o.sparse() + o.dense(4, 5),
    "** 2": lambda o: o.sparse() ** 2,
    "** 1.5": lambda o: o.sparse() ** 1.5,
    "** 0": lambda o: o.sparse() ** 0,
    "pow_": lambda o: (o.sparse() * 1).pow_(2),
    "hybrid ** 2": lambda o: o.sparse(3) ** 2,
}


@pytest.mark.parametrize("name", ARITHMETIC)
def test_arithmetic(name: str) -> None:
    compare_all(ARITHMETIC[name])


ALONG_DIMS: dict[str, Case] = {
    "sum": lambda o: o.sparse().sum(),
    "sum of a hybrid": lambda o: o.sparse(3).sum(),
    "sum in float64": lambda o: o.sparse().sum(dtype=torch.float64),
    **{
        f"{name} over {dim} of {kind}": lambda o, f=f, dim=dim, dense=dense: f(o.sparse(*dense), dim)
        for name, f in {
            "sum": lambda s, dim: s.sum(dim),
            "sum, kept,": lambda s, dim: s.sum(dim, keepdim=True),
            "torch.sparse.sum": torch.sparse.sum,
            "torch.sparse.sum in float64": lambda s, dim: torch.sparse.sum(s, dim, dtype=torch.float64),
        }.items()
        for kind, dense, dims in (
            ("a matrix", (), (0, 1, -1, (0, 1))),
            ("a hybrid", (3,), (0, -1, (0, 1), (1, 2), (0, 1, 2))),
        )
        for dim in dims
    },
    "torch.sparse.sum": lambda o: torch.sparse.sum(o.sparse()),
    "torch.sparse.sum of three sparse dims": lambda o: torch.sparse.sum(o.sparse(size=(4, 5, 3)), (0, 2)),
    "torch.sparse.sum, kept by none": lambda o: torch.sparse.sum(o.sparse(), 5),
    "norm": lambda o: o.sparse().norm(),
    "norm 1": lambda o: torch.norm(o.sparse(3), 1),
    "norm over a dim": lambda o: o.sparse().norm(2, 0),
    "norm over all": lambda o: o.sparse().norm(2, (0, 1)),
    "any": lambda o: o.sparse().isinf().any(),
    "mean": lambda o: o.sparse().mean(),
    **{
        f"{f.__name__} along {dim} of {kind}": lambda o, f=f, dim=dim, dense=dense: f(o.sparse(*dense), dim)
        for f in (torch.sparse.softmax, torch.sparse.log_softmax)
        for kind, dense, dims in (("a matrix", (), (0, 1, 2)), ("a hybrid", (3,), (0, 1, 2)))
        for dim in dims
    },
    "softmax of three sparse dims": lambda o: torch.sparse.softmax(o.sparse(size=(4, 5, 3)), 1),
    "softmax in float64": lambda o: torch.sparse.softmax(o.sparse(), 1, dtype=torch.float64),
    "softmax of what has no elements but infinite ones": lambda o: torch.sparse.softmax(o.sparse() * float("inf"), 1),
    "t": lambda o: o.sparse().t(),
    "transpose": lambda o: o.sparse(size=(4, 5, 3)).transpose(0, 2),
    "transpose of dense dims": lambda o: o.sparse(3, 2).transpose(2, 3),
    "transpose across": lambda o: o.sparse(3).transpose(0, 2),
    "t_": lambda o: o.sparse().detach().t_(),
    "permute": lambda o: o.sparse(size=(4, 5, 3)).permute(2, 0, 1),
    "permute of dense dims": lambda o: o.sparse(3, 2).permute(0, 1, 3, 2),
    "permute across": lambda o: o.sparse(3).permute(2, 0, 1),
    "permute by too few": lambda o: o.sparse().permute(0),
    "mT": lambda o: o.sparse().mT,
    "unsqueeze": lambda o: [o.sparse(3).unsqueeze(d) for d in (0, 1, 2, 3, -1)],
    "unsqueeze too far": lambda o: o.sparse().unsqueeze(4),
    "squeeze": lambda o: o.sparse(size=(4, 1)).squeeze(),
    "cat": lambda o: torch.cat([o.sparse(), o.sparse(kind="coalesced")]),
    "cat along 1": lambda o: torch.cat([o.sparse(), o.sparse(size=(4, 3))], 1),
    "cat along a dense dim": lambda o: torch.cat([o.sparse(3), o.sparse(2)], 2),
    "cat of one": lambda o: torch.cat([o.sparse()]),
    "cat of other sizes": lambda o: torch.cat([o.sparse(), o.sparse(size=(4, 3))]),
    "cat of other kinds": lambda o: torch.cat([o.sparse(size=(4,)), o.sparse(5, size=(4,))]),
    "cat of two dtypes": lambda o: torch.cat([o.sparse(), o.sparse(dtype=torch.float64)]),
    "cat with a dense one": lambda o: torch.cat([o.sparse(), o.dense(4, 5)]),
    "stack": lambda o: torch.stack([o.sparse(), o.sparse()]),
    "vstack": lambda o: torch.vstack([o.sparse(), o.sparse()]),
    "index_select": lambda o: o.sparse().index_select(0, torch.tensor([3, 0, 3, 2], device=o.device)),
    "index_select of columns": lambda o: o.sparse().index_select(1, torch.tensor([1, 4, -1], device=o.device)),
    "index_select of a dense dim": lambda o: o.sparse(3).index_select(2, torch.tensor([2, 0], device=o.device)),
    "index_select of none": lambda o: o.sparse().index_select(0, torch.tensor([], dtype=torch.int64, device=o.device)),
    "index_select too far": lambda o: o.sparse().index_select(0, torch.tensor([4], device=o.device)),
    "index_select by two dims": lambda o: o.sparse().index_select(0, torch.tensor([[1]], device=o.device)),
    "select": lambda o: o.sparse().select(0, 3),
    "[3]": lambda o: o.sparse()[3],
    "[:, 1]": lambda o: o.sparse()[:, 1],
    "[3, 1]": lambda o: o.sparse()[3, 1],
    "select of a dense dim": lambda o: o.sparse(3).select(2, -1),
    "select too far": lambda o: o.sparse().select(0, 4),
    "[1:3]": lambda o: o.sparse()[1:3],
    "narrow_copy": lambda o: o.sparse().narrow_copy(0, 1, 3),
    "narrow_copy of columns": lambda o: o.sparse().narrow_copy(1, 1, 2),
    "narrow_copy of a dense dim": lambda o: o.sparse(3).narrow_copy(2, 1, 2),
    "narrow_copy too far": lambda o: o.sparse().narrow_copy(0, 3, 3),
    "to float64": lambda o: o.sparse().to(torch.float64),
    "double": lambda o: o.sparse(3).double(),
    "bool": lambda o: o.sparse().detach().bool(),
    "is_same_size": lambda o: [o.sparse().is_same_size(o.sparse()), o.sparse().is_same_size(o.sparse(size=(4, 3)))],
    "coalesce": lambda o: o.sparse().coalesce(),
    "values": lambda o: o.sparse().coalesce().values(),
    "values of what is not coalesced": lambda o: o.sparse().values(),
    "to_dense": lambda o: o.sparse(3).to_dense(),
    "sparse_mask": lambda o: o.sparse().sparse_mask(o.sparse(kind="coalesced")),
    "sparse_mask of a dense one": lambda o: o.dense(4, 5).sparse_mask(o.sparse()),
    "sparse_mask of another size": lambda o: o.dense(4, 4).sparse_mask(o.sparse()),
    "zeros_like": lambda o: torch.zeros_like(o.sparse()),
    "empty_like": lambda o: torch.empty_like(o.sparse()),
    "detach": lambda o: o.sparse().detach(),
    "view_as_real": lambda o: torch.view_as_real(o.sparse().detach()),
}


@pytest.mark.parametrize("name", ALONG_DIMS)
def test_along_dims(name: str) -> None:
    compare_all(ALONG_DIMS[name])


FUNCTIONS = (
    "abs", "asin", "asinh", "atan", "atanh", "ceil", "conj_physical", "deg2rad", "erf", "erfinv", "expm1", "floor", "frac",
    "isneginf", "isposinf", "log1p", "neg", "rad2deg", "round", "sgn", "sign", "signbit", "sin", "sinh", "sqrt", "tan",
    "tanh", "trunc", "relu", "isnan", "isinf", "nan_to_num", "cos", "exp",
)  # fmt: skip


def function_cases(name: str) -> dict[str, Case]:
    function, in_place = getattr(torch, name), f"{name}_"
    cases: dict[str, Case] = {
        "": lambda o: function(o.sparse()),
        "hybrid": lambda o: function(o.sparse(3)),
        "out": lambda o: function(o.sparse().detach(), out=o.sparse(kind="empty").detach()),
    }
    if hasattr(Tensor, in_place):
        cases["in place"] = lambda o: getattr(o.sparse() * 1, in_place)()
        cases["in place, seen by the values"] = lambda o: (s := o.sparse().detach(), getattr(s, in_place)(), s._values())
    return cases


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_values(name: str) -> None:
    for case in function_cases(name).values():
        compare_all(case)
        for kind in INDICES:
            compare(case, torch.int64, kind, requires_grad=False)


def propagated(o: Operands) -> Any:
    """Two layers of a graph convolution."""
    hidden = torch.sparse.mm(o.sparse(size=(5, 5)), o.dense(5, 3) @ o.dense(3, 4)).relu()
    return torch.sparse.mm(o.sparse(size=(5, 5)), hidden @ o.dense(4, 2)).log_softmax(1)


def attended(o: Operands) -> Any:
    """Attention over the edges of a graph, with scores computed from the nodes at their ends."""
    nodes, (row, column) = o.dense(5, 3), torch.tensor(INDICES[o.kind], dtype=torch.int64, device=o.device)
    scores = (nodes[row] * nodes[column]).sum(1)
    attention = torch.sparse.softmax(torch.sparse_coo_tensor(torch.stack([row, column]), scores, (5, 5)), 1)
    return torch.sparse.mm(attention, nodes)


def factorised(o: Operands) -> Any:
    """The loss of a matrix factorisation at the known elements."""
    known, product = o.sparse(), o.dense(4, 2) @ o.dense(2, 5)
    return torch.sparse.sum((product.sparse_mask(known.detach().coalesce()) - known) ** 2)


def normalised(o: Operands) -> Any:
    """A graph with self-loops, each edge normalised by the degrees of its ends."""
    eye = torch.sparse.spdiags(torch.ones(1, 5), torch.tensor([0]), (5, 5)).to(o.device, o.dtype)
    graph = (o.sparse(size=(5, 5)).detach() ** 2 + eye).coalesce()
    degrees = torch.sparse.sum(graph, 1).to_dense() ** -0.5
    return graph * degrees.unsqueeze(1) * degrees, torch.sparse.mm(graph, graph.t()).coalesce()


@pytest.mark.parametrize("case", [propagated, attended, factorised, normalised])
def test_what_is_made_of_them(case: Case) -> None:
    dtypes = FLOATS if case is normalised else FLOATS[:2]
    compare_all(case, dtypes)


def test_gradients_of_gradients() -> None:
    def case(o: Operands) -> Any:
        matrix, dense = o.sparse(), o.dense(5, 3)
        found = torch.autograd.grad(torch.sparse.mm(matrix, dense).pow(3).sum(), [matrix, dense], create_graph=True)
        return torch.sparse.sum(found[0]), found[1]

    for kind in INDICES:
        compare(case, torch.float64, kind, requires_grad=True)


MIXED: dict[str, Case] = {
    "@": lambda o: o.sparse() @ torch.ones(5, 3),
    "@ remote": lambda o: o.sparse().cpu() @ o.dense(5, 3),
    "*": lambda o: o.sparse() * torch.ones(4, 5),
    "* sparse": lambda o: o.sparse() * o.sparse().cpu(),
    "* row": lambda o: torch.ones(5) * o.sparse(),
    "+": lambda o: o.sparse() + o.sparse().cpu(),
    "dense +": lambda o: torch.ones(4, 5) + o.sparse(),
    "sparse.mm": lambda o: torch.sparse.mm(o.sparse(), o.sparse().t().cpu()),
    "addmm": lambda o: torch.addmm(torch.ones(4, 3), o.sparse(), o.dense(5, 3)),
    "bmm": lambda o: torch.bmm(o.sparse(size=(4, 5, 3)), torch.ones(4, 3, 2)),
    "mv": lambda o: o.sparse().mv(torch.ones(5)),
    "cat": lambda o: torch.cat([o.sparse(), o.sparse().cpu()]),
    "sparse_mask": lambda o: torch.ones(4, 5).sparse_mask(o.sparse()),
    "sparse_mask of sparse": lambda o: o.sparse().cpu().sparse_mask(o.sparse()),
    "index_select": lambda o: o.sparse().index_select(0, torch.tensor([0])),
}


@pytest.mark.parametrize("name", MIXED)
def test_mixed_devices_are_an_error(name: str) -> None:
    for kind in INDICES:
        with pytest.raises(RuntimeError, match="same device"):
            MIXED[name](Operands("remote", torch.float32, kind))


def test_diagonals() -> None:
    def case(o: Operands) -> Any:
        offsets = torch.tensor([0, -1, 2], device=o.device)
        return [torch.sparse.spdiags(o.dense(3, 4), offsets, shape) for shape in ((4, 4), (2, 6), (3, 5), (6, 4))]

    compare(case, torch.float32, "coalesced", requires_grad=False)
    same_offsets: Case = lambda o: torch.sparse.spdiags(o.dense(2, 4), torch.tensor([0, 0]).to(o.device), (4, 4))
    compare(same_offsets, torch.float32, "coalesced", requires_grad=False)


COMPRESSED: dict[str, Case] = {
    "there and back": lambda o: o.sparse().to_sparse_csr().to_dense(),
    "columns": lambda o: o.sparse().to_sparse_csc(),
    "blocks": lambda o: o.dense(4, 6).detach().to_sparse_bsr((2, 3)),
    "blocks of columns": lambda o: o.dense(4, 6).detach().to_sparse_bsc((2, 3)),
    "to coordinates": lambda o: o.sparse().detach().to_sparse_csr().to_sparse(),
    "mm": lambda o: o.sparse().detach().to_sparse_csr() @ o.dense(5, 3),
    "mv": lambda o: o.sparse().detach().to_sparse_csr() @ o.dense(5),
    "addmm": lambda o: torch.addmm(o.dense(4, 3), o.sparse().detach().to_sparse_csr(), o.dense(5, 3), beta=0.5),
    "times itself": lambda o: (lambda s: s @ s.t())(o.sparse(size=(5, 5)).detach().to_sparse_csr()),
    "sum of two": lambda o: (lambda s: s + s)(o.sparse().detach().to_sparse_csr()),
    "times a number": lambda o: o.sparse().to_sparse_csr() * 2,
    "in place": lambda o: (s := o.sparse().detach().to_sparse_csr(), s.mul_(2), s.values()),
    "a function": lambda o: o.sparse().detach().to_sparse_csr().sin(),
    "a sum of rows": lambda o: o.sparse().detach().to_sparse_csr().sum(1, keepdim=True),
    "a row": lambda o: o.sparse().detach().to_sparse_csr()[3],
    "at the elements of another": lambda o: torch.sparse.sampled_addmm(
        o.sparse().detach().to_sparse_csr(), o.dense(4, 2), o.dense(2, 5)
    ),
    "a mean": lambda o: torch.sparse.mm(o.sparse().detach().to_sparse_csr(), o.dense(5, 3), "mean"),
    "made of parts": lambda o: torch.sparse_csr_tensor(
        torch.tensor([0, 1, 3], device=o.device), torch.tensor([2, 0, 1], device=o.device), o.dense(3), (2, 3)
    ).to_dense(),
    "copied": lambda o: (s := o.sparse().detach().to_sparse_csr(), s.clone(), s.to(torch.float64), torch.zeros_like(s)),
}  # fmt: skip


@pytest.mark.parametrize("name", COMPRESSED)
def test_compressed_layouts(name: str) -> None:
    compare_all(COMPRESSED[name])


def test_indices_out_of_range_are_refused_by_the_worker() -> None:
    """Kernels do not check them: an index beyond the tensor would read another session's memory."""
    indices = torch.tensor([[0, 9], [1, 1]], device="remote")
    beyond = torch.sparse_coo_tensor(indices, torch.ones(2, device="remote"), (4, 5), check_invariants=False)
    with pytest.raises(RuntimeError, match="size is inconsistent"):
        beyond @ torch.ones(5, 2, device="remote")
    rows = torch.tensor([0, 1, 2], device="remote")
    beyond = torch.sparse_csr_tensor(rows, indices[0], torch.ones(2, device="remote"), (2, 5), check_invariants=False)
    with pytest.raises(RuntimeError, match="do not fit"):
        beyond @ torch.ones(5, 2, device="remote")
