"""What Python code of `torch.Tensor` needs to know of remote tensors: copying, saving, NumPy, printing."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy
import torch
import torch._tensor_str as printing
from torch.nn.parameter import UninitializedTensorMixin

from gt.client.kernels import linear
from gt.client.patches import node_names
from gt.client.stream import devices, operands
from gt.client.stream.definitions import definitions

Tensor = torch.Tensor
_numpy = Tensor.numpy
_array = Tensor.__array__
_wrap_array = Tensor.__array_wrap__
_equal = Tensor.__eq__
_dlpack, _dlpack_device = Tensor.__dlpack__, Tensor.__dlpack_device__
_get_data = torch._C.TensorBase.data.__get__  # type: ignore[attr-defined]


def _without_operand(cls: type[Tensor], name: str) -> None:
    """The cached operand is not a tensor's state: it is dropped before the state is copied or saved."""
    original: Callable[..., Any] = getattr(cls, name)

    @functools.wraps(original)
    def method(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.device.type == "remote":
            operands.forget_operand(self)
        return original(self, *args, **kwargs)

    setattr(cls, name, method)


INDICES = {
    torch.sparse_csr: ("crow_indices", "col_indices"),
    torch.sparse_bsr: ("crow_indices", "col_indices"),
    torch.sparse_csc: ("ccol_indices", "row_indices"),
    torch.sparse_bsc: ("ccol_indices", "row_indices"),
}
_reduce = Tensor._reduce_ex_internal


def _to_parts(self: Tensor, protocol: int) -> Any:
    """How a tensor is pickled: a sparse one by its parts, as on the CPU, where PyTorch would take it for one of a device
    whose tensors have no storages, and name the device."""
    if self.device.type != "remote" or self.layout is torch.strided:
        return _reduce(self, protocol)
    if self.layout is torch.sparse_coo:
        parts: tuple[Any, ...] = (self._indices(), self._values(), self.size(), self.is_coalesced())
    else:
        parts = (*(getattr(self, name)() for name in INDICES[self.layout]), self.values(), self.size())
    return torch._utils._rebuild_sparse_tensor, (self.layout, parts)


# -- `tensor.data = value`, by which modules move their parameters ---------------------------------------------------------


def _set_data(self: Tensor, value: Tensor) -> None:
    if devices.crosses(self, value):
        _change_device(self, value)
        return
    known = self.device.type == "remote" and self.layout is torch.strided and not isinstance(self, UninitializedTensorMixin)
    before = operands.operand(self)[0] if known else 0
    operands.set_data(self, value)
    if known and operands.operand(self)[0] != before:
        linear.note_replaced(self, before)


def _change_device(self: Tensor, value: Tensor) -> None:
    """Give the Python object another tensor, and that one all that autograd knew of the old: hooks, gradient, the flag."""
    new, requires_grad = value.detach(), self.requires_grad
    if requires_grad and self.is_leaf and self._use_count() > 1:  # type: ignore[attr-defined]
        torch.autograd.graph.get_gradient_edge(self).node.register_prehook(_moved_since)
    operands.forget_operand(self)
    torch._C._swap_tensor_impl(self, new)
    self.requires_grad = requires_grad
    self._backward_hooks = self._backward_hooks
    self._post_accumulate_grad_hooks = self._post_accumulate_grad_hooks  # type: ignore[attr-defined]
    if new.is_leaf and new.grad is not None:
        self.grad = new.grad.to(self.device)


def _moved_since(*_: Any) -> None:
    raise RuntimeError("backward reached a tensor that has changed its device since the forward pass; move it before that")


def _to_numpy(self: Tensor, *, force: bool = False) -> numpy.ndarray[Any, Any]:
    """As on the CPU, on a copy: the array is this process's own."""
    if self.device.type != "remote":
        return _numpy(self, force=force)
    if self.requires_grad and not force:
        raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.")
    for bit, is_set in (("conj", self.is_conj()), ("neg", self.is_neg())):
        if is_set and not force:
            name = "conjugate" if bit == "conj" else "negative"
            way = f"Use tensor.resolve_{bit}().numpy() instead."
            raise RuntimeError(f"Can't call numpy() on Tensor that has {name} bit set. {way}")
    return _numpy(self.detach().cpu(), force=force)


def _to_array(self: Tensor, dtype: Any = None, copy: bool | None = None) -> numpy.ndarray[Any, Any]:
    """What is fetched is a copy already, whatever NumPy asks for."""
    if self.device.type != "remote":
        return _array(self, dtype)  # type: ignore[no-any-return]
    found = self.numpy()
    return found if dtype is None else found.astype(dtype, copy=False)


def _to_dlpack(self: Tensor, **options: Any) -> Any:
    """What another library takes over is a copy in this process's memory; PyTorch itself says what cannot be."""
    return _dlpack(self if self.device.type != "remote" or self.is_conj() else self.cpu(), **options)


def _dlpack_place(self: Tensor) -> Any:
    return _dlpack_device(torch.empty(0, device="cpu") if self.device.type == "remote" else self)


def _element_wise(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`apply_`, `map_`: a Python function makes every element, here, from those of fetched tensors."""

    @functools.wraps(original)
    def method(self: Tensor, *args: Any) -> Tensor:
        if self.device.type != "remote" or self.requires_grad:  # which is not allowed
            return original(self, *args)
        local = [a.detach().cpu() if isinstance(a, Tensor) else a for a in (self, *args)]
        self.copy_(original(*local))
        return self

    return method


def _from_array(self: Tensor, *args: Any, **kwargs: Any) -> Any:
    """What a function of NumPy's made of this tensor is where the tensor is."""
    made = _wrap_array(self, *args, **kwargs)
    return made.to("remote") if self.device.type == "remote" and isinstance(made, Tensor) else made


def _equals(self: Tensor, other: Any) -> Any:
    """The one comparison with an array that PyTorch allows: C++ makes a CPU tensor of it."""
    if isinstance(other, numpy.ndarray) and self.device.type == "remote":
        other = torch.as_tensor(other, device="remote")
    return _equal(self, other)


def _print_locally() -> None:
    """Elements are printed from one fetch, and as on the CPU: the device is where it always is, so it is not named."""
    elements, text = printing._tensor_str, printing._str_intern

    def tensor_str(self: Tensor, indent: int) -> str:
        local = self.detach().cpu() if self.device.type == "remote" else self
        return elements(local, indent)  # type: ignore[no-untyped-call,no-any-return]

    def str_intern(inp: Tensor, *, tensor_contents: str | None = None) -> str:
        if inp.device.type != "remote":
            return text(inp, tensor_contents=tensor_contents)  # type: ignore[no-untyped-call,no-any-return]
        default = torch._C._get_default_device
        torch._C._get_default_device = lambda: "remote"
        try:
            return node_names.renamed(inp, text(inp, tensor_contents=tensor_contents))  # type: ignore[no-untyped-call]
        finally:
            torch._C._get_default_device = default

    printing._tensor_str = tensor_str
    printing._str_intern = str_intern


def _watch_default_dtype(changed: Callable[[], None]) -> None:
    """Definitions depend on the default dtype: a change, by whatever function of torch, makes new ones."""
    for name in ("_set_default_dtype", "_set_default_tensor_type"):
        setattr(torch._C, name, _then(getattr(torch._C, name), changed))


def _then(function: Callable[[Any], None], do: Callable[[], None]) -> Callable[[Any], None]:
    @functools.wraps(function)
    def call(value: Any) -> None:
        function(value)
        do()

    return call


def install() -> None:
    for cls in (Tensor, torch.nn.Parameter):
        for name in ("__deepcopy__", "__reduce_ex__"):
            if name in cls.__dict__:
                _without_operand(cls, name)
    Tensor._reduce_ex_internal = _to_parts
    Tensor.data = property(_get_data, _set_data)  # type: ignore[assignment]
    Tensor.numpy = _to_numpy  # type: ignore[method-assign,assignment]
    Tensor.__array__ = _to_array  # type: ignore[method-assign,assignment]
    Tensor.__array_wrap__ = _from_array  # type: ignore[method-assign,assignment]
    Tensor.__eq__ = _equals  # type: ignore[method-assign,assignment]
    Tensor.__dlpack__ = _to_dlpack  # type: ignore[method-assign,assignment]
    Tensor.__dlpack_device__ = _dlpack_place  # type: ignore[method-assign,assignment]
    for name in ("apply_", "map_", "map2_"):
        setattr(Tensor, name, _element_wise(getattr(Tensor, name)))
    _print_locally()
    _watch_default_dtype(definitions.forget)
