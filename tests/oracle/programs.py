"""Random programs, each run on the CPU and on the remote device: views, writes through views, `out=`, resizing, indexing,
dtypes, autograd. After every step all tensors of both are compared: values, dtypes, strides, versions, gradients, errors.

    python -m tests.oracle.programs FIRST LAST      # the programs of these seeds
    python -m tests.oracle.programs FIRST LAST --rehearsed

With --rehearsed, steps first run on the remote device under a tracer, mode or transform, which must leave nothing behind.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import torch
import torch.nn.functional as F

import gt  # noqa: F401 - registers the device
from gt.client.stream import operands
from gt.client.stream.definitions import definitions
from tests.oracle.modes import REHEARSALS

Tensor = torch.Tensor
Operation = Callable[[Tensor, Tensor, Tensor, Random], Any]
DTYPES = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.int64, torch.int32, torch.uint8,
    torch.bool,
)  # fmt: skip
STEPS = 25
POOL = 14
LARGE = 5000
"""Tensors with more elements do not join the pool."""
LATE = (
    "out of bounds", "out of range", "out of DATA bounds", "ZeroDivision", "negative integer powers", "singular", "converge",
    "setStorage", "without overflow",
)  # fmt: skip
"""Parts of the messages of errors that depend on values, or on a view beyond its storage: raised when a result is used."""

UNARY = """abs neg sign exp sin cos tanh sigmoid sqrt rsqrt log relu floor ceil round trunc frac isnan isfinite logical_not
    bitwise_not conj resolve_conj real imag angle square reciprocal erf positive clone detach t mT H contiguous
    flatten squeeze sum mean prod amax amin argmax argmin all any nonzero unique std var norm count_nonzero trace
    diagonal tril triu item tolist numel unbind float double int long bool half bfloat16 zeros_like ones_like
    rand_like nan_to_num aminmax median view_as_real diff expm1 log1p gelu silu elu softplus leaky_relu bincount cov
    msort argsort fliplr rot90 inverse det matrix_exp pinverse var_mean logsigmoid"""
ALONG = "cumsum cumprod logsumexp softmax log_softmax mode flip sort cummax sum mean amax argmax all unbind nanmean"
BINARY = """add sub mul div floor_divide remainder fmod pow atan2 maximum minimum fmax eq ne lt le gt ge logical_and
    logical_or logical_xor bitwise_and bitwise_or matmul mm mv dot outer hypot copysign expand_as view_as reshape_as
    cross kron inner isclose equal allclose dist ldexp nextafter heaviside xlogy type_as bmm searchsorted meshgrid
    take masked_select vstack rsub"""
BINARY_IN_PLACE = "add_ sub_ mul_ div_ copy_ pow_ remainder_ fmod_ logical_and_ bitwise_xor_ eq_ lt_ atan2_ set_"
IN_PLACE = """zero_ abs_ neg_ exp_ sin_ sqrt_ relu_ floor_ t_ squeeze_ sigmoid_ tanh_ detach_ random_ uniform_ normal_
    bernoulli_ requires_grad_ tril_ triu_ square_ round_ logical_not_ sign_ erf_ nan_to_num_"""


def _find(name: str, tensor: Tensor) -> Callable[..., Any]:
    """A function of a tensor by name: a method or property, or a function of `torch` or `torch.nn.functional`."""
    if hasattr(tensor, name):
        found = getattr(tensor, name)
        return found if callable(found) else lambda: found
    function = getattr(torch, name, None) or getattr(F, name)
    return lambda *args: function(tensor, *args)


def _number(r: Random) -> Any:
    return r.choice((0, 1, 2, -1, 4, 0.5, -1.5, 1e-3, True, False, 1 + 2j))


def _shape(r: Random) -> list[int]:
    return [r.choice((0, 1, 1, 2, 3, 4, 5)) for _ in range(r.choice((0, 1, 1, 2, 2, 2, 3, 3, 4)))]


def _dim(r: Random) -> int:
    return r.randrange(-3, 3)


def _slice(r: Random) -> slice:
    return slice(r.randrange(-4, 4), r.randrange(-4, 5), r.choice((1, 1, 2, 3)))


def _operand(x: Tensor, r: Random) -> Any:
    return _number(r) if r.random() < 0.3 else x


def _resize(x: Tensor, r: Random) -> None:
    before = x.numel()
    if x.resize_(_shape(r)).numel() > before:
        x.zero_()


def _backward(x: Tensor, r: Random) -> None:
    plain = torch.view_as_real(x.resolve_conj()) if x.is_complex() else x.float()
    plain.sum().backward(retain_graph=r.random() < 0.5)


def _require_grad(x: Tensor) -> None:
    x.requires_grad_() if x.is_leaf else x.retain_grad()


def _put(x: Tensor, key: Any, value: Any) -> None:
    x[key] = value


def _out(function: Callable[..., Any], out: Tensor, *args: Any) -> None:
    function(*args, out=out)


VIEWS: dict[str, Operation] = {
    "transpose": lambda x, y, z, r: x.transpose(_dim(r), _dim(r)),
    "permute": lambda x, y, z, r: x.permute(*reversed(range(x.dim()))),
    "view": lambda x, y, z, r: x.view(_shape(r)),
    "reshape": lambda x, y, z, r: x.reshape([-1, *_shape(r)[:1]]),
    "expand": lambda x, y, z, r: x.expand([*_shape(r), *x.shape]),
    "slice": lambda x, y, z, r: x[_slice(r)],
    "select": lambda x, y, z, r: x.select(_dim(r), _dim(r)),
    "narrow": lambda x, y, z, r: x.narrow(_dim(r), r.randrange(3), r.randrange(4)),
    "as_strided": lambda x, y, z, r: x.as_strided(s := _shape(r), [1] * len(s), r.randrange(3)),
    "split": lambda x, y, z, r: x.split(2, _dim(r))[:2],
    "tensor_split": lambda x, y, z, r: x.tensor_split(2, _dim(r)),
    "unfold": lambda x, y, z, r: x.unfold(_dim(r), 2, r.choice((1, 2))),
    "diagonal": lambda x, y, z, r: x.diagonal(_dim(r)),
    "view as": lambda x, y, z, r: x.view(r.choice(DTYPES)),
    "squeeze": lambda x, y, z, r: x.squeeze(_dim(r)),
    "unsqueeze": lambda x, y, z, r: x.unsqueeze(_dim(r)),
    "last": lambda x, y, z, r: x[..., -1],
    "new dim": lambda x, y, z, r: x[None, :, None],
    "unflatten": lambda x, y, z, r: x.unflatten(_dim(r), (2, -1)),
}
COPIES: dict[str, Operation] = {
    "of ends": lambda x, y, z, r: x[[0, -1]],
    "index": lambda x, y, z, r: x[y],
    "positive": lambda x, y, z, r: x[x > 0],
    "gather": lambda x, y, z, r: x.gather(_dim(r), y),
    "scatter": lambda x, y, z, r: x.scatter(_dim(r), y, z),
    "scatter_add": lambda x, y, z, r: x.scatter_add(_dim(r), y, z),
    "masked_scatter": lambda x, y, z, r: x.masked_scatter(y, z),
    "index_select": lambda x, y, z, r: x.index_select(_dim(r), y),
    "index_fill": lambda x, y, z, r: x.index_fill(_dim(r), y, _number(r)),
    "roll": lambda x, y, z, r: x.roll(r.randrange(3), _dim(r)),
    "repeat": lambda x, y, z, r: x.repeat(2, 1, 1),
    "repeat_interleave": lambda x, y, z, r: x.repeat_interleave(2, _dim(r)),
    "cat": lambda x, y, z, r: torch.cat([x, y, z], _dim(r)),
    "stack": lambda x, y, z, r: torch.stack([x, y], _dim(r)),
    "to": lambda x, y, z, r: x.to(r.choice(DTYPES)),
    "pad": lambda x, y, z, r: F.pad(x, (_dim(r), _dim(r))),
    "einsum": lambda x, y, z, r: torch.einsum("ij,jk->ik", x, y),
    "interpolate": lambda x, y, z, r: F.interpolate(x, scale_factor=2),
    "where": lambda x, y, z, r: torch.where(x, _operand(y, r), z),
    "where positive": lambda x, y, z, r: torch.where(x > 0, x, _number(r)),
    "clamp": lambda x, y, z, r: x.clamp(y, z),
    "addmm": lambda x, y, z, r: torch.addmm(x, y, z, beta=0.5, alpha=2),
    "baddbmm": lambda x, y, z, r: torch.baddbmm(x, y, z),
    "lerp": lambda x, y, z, r: torch.lerp(x, y, 0.3),
    "addcmul": lambda x, y, z, r: torch.addcmul(x, y, z, value=0.5),
    "triu": lambda x, y, z, r: x.triu(_dim(r)),
    "topk": lambda x, y, z, r: x.topk(1, _dim(r))[0],
}
WRITES: dict[str, Operation] = {
    "resize_": lambda x, y, z, r: _resize(x, r),
    "clamp_": lambda x, y, z, r: x.clamp_(-1, 1),
    "fill_": lambda x, y, z, r: x.fill_(_number(r)),
    "cumsum_": lambda x, y, z, r: x.cumsum_(0),
    "unsqueeze_": lambda x, y, z, r: x.unsqueeze_(0),
    "transpose_": lambda x, y, z, r: x.transpose_(0, 1),
    "put_": lambda x, y, z, r: x.put_(y, z),
    "one": lambda x, y, z, r: _put(x, _dim(r), _number(r)),
    "a part": lambda x, y, z, r: _put(x, _slice(r), y),
    "the positive": lambda x, y, z, r: _put(x, x > 0, _number(r)),
    "the chosen": lambda x, y, z, r: _put(x, y, z),
    "masked_fill_": lambda x, y, z, r: x.masked_fill_(y, _operand(z, r)),
    "index_add_": lambda x, y, z, r: x.index_add_(0, y, z),
    "sum": lambda x, y, z, r: _out(torch.add, x, y, z),
    "product": lambda x, y, z, r: _out(torch.mul, x, y, z),
    "sine": lambda x, y, z, r: _out(torch.sin, x, y),
    "matrix product": lambda x, y, z, r: _out(torch.mm, x, y.clone(), z.clone()),
}
AUTOGRAD: dict[str, Operation] = {
    "require grad": lambda x, y, z, r: _require_grad(x),
    "backward": lambda x, y, z, r: _backward(x, r),
    "grad": lambda x, y, z, r: x.grad,
}


def _unary(name: str) -> Operation:
    return lambda x, y, z, r: _find(name, x)()


def _along(name: str) -> Operation:
    return lambda x, y, z, r: _find(name, x)(_dim(r))


def _binary(name: str) -> Operation:
    return lambda x, y, z, r: _find(name, x)(_operand(y, r))


GROUPS: tuple[tuple[float, dict[str, Operation]], ...] = (
    (0.2, {name: _unary(name) for name in UNARY.split()}),
    (0.08, {f"{name} along": _along(name) for name in ALONG.split()}),
    (0.18, {name: _binary(name) for name in BINARY.split()}),
    (0.1, {name: _binary(name) for name in BINARY_IN_PLACE.split()}),
    (0.08, {name: _unary(name) for name in IN_PLACE.split()}),
    (0.12, VIEWS),
    (0.1, COPIES),
    (0.07, {f"write {name}": operation for name, operation in WRITES.items()}),
    (0.12, AUTOGRAD),
)


def _layer(function: Callable[[Tensor], Tensor]) -> Operation:
    """An operation on floats; adds 0, since the CPU computes some results in place, which changes their version."""
    return lambda x, y, z, r: function(x if x.is_floating_point() else x.float()) + 0


LAYERS: dict[str, Operation] = {
    "convolve": _layer(lambda x: F.conv1d(x, x)),
    "transposed": _layer(lambda x: F.conv_transpose1d(x, x)),
    "attend": _layer(lambda x: F.scaled_dot_product_attention(x, x, x)),
    "linear": _layer(lambda x: F.linear(x, x.reshape(-1, x.shape[-1]))),
    "normalize": _layer(lambda x: F.layer_norm(x, x.shape[-1:])),
    "pool": _layer(lambda x: F.max_pool1d(x, 2)),
    "distances": _layer(lambda x: torch.cdist(x, x)),
}
"""Operations that modules use."""
WITH_LAYERS = (*GROUPS, (0.4, LAYERS))
REHEARSED = {n for _, group in GROUPS[:3] for n in group if n != "rand_like"} | {*VIEWS, *COPIES, *LAYERS}
"""Operations that neither write nor draw random numbers."""


class Difference(AssertionError):
    """The two devices behaved differently."""


class Program:
    """A program from one seed, run step by step on both devices."""

    def __init__(self, seed: int, rehearsed: bool = False) -> None:
        self.seed, self.rehearsed = seed, rehearsed
        self.lines: list[str] = []
        self.pools: tuple[list[Tensor], list[Tensor]] = ([], [])
        torch.manual_seed(seed)
        for step in range(3):
            self._add_new(Random(f"{seed} {step}"))

    def run(self) -> None:
        """Run the program. Raises `Difference` with the steps that led to it."""
        try:
            for step in range(STEPS):
                if not self._step(step):
                    return
        except Difference as difference:
            raise Difference("\n".join([f"program {self.seed}:", *self.lines, str(difference)])) from None

    def _add_new(self, r: Random) -> None:
        made = (torch.randn(_shape(r), generator=torch.Generator().manual_seed(r.randrange(1000))) * 3).to(r.choice(DTYPES))
        for pool, device in zip(self.pools, ("cpu", "remote"), strict=True):
            pool.append(made.clone().to(device))

    def _step(self, step: int) -> bool:
        """Run one step. Returns False if the program ends early, with an error that may be raised late."""
        r = Random(f"{self.seed} step {step}")
        local, remote = self.pools
        if r.random() < 0.1:
            self._add_new(r)
        groups = WITH_LAYERS if self.rehearsed else GROUPS
        _, group = groups[r.choices(range(len(groups)), [weight for weight, _ in groups])[0]]
        name = r.choice(list(group))
        x, y, z = (r.randrange(len(local)) for _ in range(3))
        self.lines.append(f"{name} {x} {y} {z}")
        if self.rehearsed and name in REHEARSED:
            self._rehearse(group[name], (remote[x], remote[y], remote[z]), step)
        expected, got = (_attempt(group[name], pool[x], pool[y], pool[z], r.random()) for pool, r in self._draws(step))
        if isinstance(expected, Exception) or isinstance(got, Exception):
            return _same_error(expected, got)
        for a, b in zip(_flat(expected), _flat(got), strict=True):
            if isinstance(a, Tensor) and isinstance(b, Tensor) and a.numel() <= LARGE:
                local.append(a)
                remote.append(b)
            elif not isinstance(a, Tensor) and a != b and a == a:
                raise Difference(f"{a!r} became {b!r}")
        self._compare()
        while len(local) > POOL:
            old = r.randrange(len(local) - 2)
            del local[old], remote[old]
        return True

    def _rehearse(self, operation: Operation, tensors: tuple[Tensor, Tensor, Tensor], step: int) -> None:
        r = Random(f"{self.seed} rehearsal {step}")
        mode, draw = r.choice(list(REHEARSALS)), Random(f"{self.seed} draw {step}").random()
        self.lines[-1] += f", first under: {mode}"
        definitions.forget()  # so that calls and operands are learnt under the mode
        for tensor in tensors:
            operands.forget_operand(tensor)
        logging.disable()  # PyTorch logs every error of a fake tensor
        with contextlib.suppress(Exception):
            REHEARSALS[mode](lambda x, y, z: operation(x, y, z, Random(draw)), tensors)
        logging.disable(logging.NOTSET)

    def _draws(self, step: int) -> Iterator[tuple[list[Tensor], Random]]:
        return ((pool, Random(f"{self.seed} draw {step}")) for pool in self.pools)

    def _compare(self) -> None:
        for number, (a, b) in enumerate(zip(*self.pools, strict=True)):
            try:
                compare(a, b)
            except Difference as difference:
                raise Difference(f"tensor {number}: {difference}") from None


def _attempt(operation: Operation, x: Tensor, y: Tensor, z: Tensor, draw: float) -> Any:
    try:
        return operation(x, y, z, Random(draw))
    except Exception as error:
        return error


def _flat(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple)):
        return [one for v in value for one in _flat(v)]
    return [] if value is None else [value]


def _same_error(expected: Any, got: Any) -> bool:
    if type(expected) is type(got):
        return True
    if isinstance(expected, Exception) and any(
        part in f"{expected} {got if isinstance(got, Exception) else ''}" for part in LATE
    ):
        return False
    said = [repr(told) if isinstance(told, Exception) else "no error" for told in (expected, got)]
    raise Difference(f"CPU: {said[0]}\nremote: {said[1]}")


def _attribute(tensor: Tensor, name: str) -> Any:
    try:
        return getattr(tensor, name)
    except RuntimeError as error:  # a view whose base was written in a way that autograd forbids
        return str(error)


def _lies(tensor: Tensor) -> list[tuple[int, int]]:
    return [(n, stride) for n, stride in zip(tensor.shape, tensor.stride(), strict=True) if n > 1]


def compare(a: Tensor, b: Tensor) -> None:
    """Raises `Difference` if a user can tell a local tensor `a` from a remote one `b`."""
    for name in ("shape", "dtype", "requires_grad", "is_leaf", "_version"):
        if (expected := _attribute(a, name)) != (got := _attribute(b, name)):
            raise Difference(f"{name}: {expected} became {got}")
    if a.numel() and (_lies(a), a.storage_offset()) != (_lies(b), b.storage_offset()):
        raise Difference(f"strides: {a.stride()} became {b.stride()}")
    if (a._is_view(), a.is_conj(), a.is_neg()) != (b._is_view(), b.is_conj(), b.is_neg()):
        raise Difference("one is a view, conjugate or negative, and the other is not")
    _compare_values(a.detach(), b.detach())
    if _attribute(a, "is_leaf") is True or a.retains_grad:
        if (a.grad is None) != (b.grad is None):
            raise Difference(f"gradient: {a.grad} became {b.grad}")
        if a.grad is not None and b.grad is not None:
            _compare_values(a.grad, b.grad)


def _compare_values(a: Tensor, b: Tensor) -> None:
    try:
        torch.testing.assert_close(b.cpu(), a, rtol=1e-5, atol=1e-6, equal_nan=True)
    except AssertionError as error:
        raise Difference(str(error)) from None


def check(first: int, last: int, rehearsed: bool = False) -> list[str]:
    """Run the programs of seeds `first` to `last` - 1; returns the differences as text."""
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in range(first, last):
            try:
                Program(seed, rehearsed).run()
            except Difference as difference:
                found.append(str(difference))
            with contextlib.suppress(Exception):
                torch.accelerator.synchronize()  # raises the errors that no step has raised
    return found


if __name__ == "__main__":
    told = check(int(sys.argv[1]), int(sys.argv[2]), "--rehearsed" in sys.argv)
    print(*told, f"{len(told)} programs differ", sep="\n\n")
    sys.exit(bool(told))
