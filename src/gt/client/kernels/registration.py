"""Registers the kernels of the device under PyTorch's dispatch keys."""

from __future__ import annotations

from typing import Any

import torch

from gt.client.calls.asking import query
from gt.client.calls.schemas import OpOverload
from gt.client.kernels import (
    adjusted,
    autocast,
    composites,
    copies,
    decompositions,
    linear,
    local_answers,
    process_groups,
    sparse,
    views,
)
from gt.client.kernels.general import Kernel
from gt.client.kernels.kernel import kernel

_libraries: list[torch.library.Library] = []
"""Kernels live as long as the library object that registered them."""


KERNELS = {**copies.KERNELS, **views.KERNELS, **local_answers.KERNELS, **adjusted.KERNELS}
OWN = {*KERNELS, *decompositions.PARTS, "linear_backward"}
ALIASING = {"_unsafe_view", "unsafe_split", "unsafe_split_with_sizes", "lift", "lift_fresh"}
"""Operators that are views although their schema does not say so: PyTorch makes them from `view` and `as_strided`."""
REFUSED = ("quantize_per", "_nested_from", "_nested_tensor_from_tensor", "_nested_view", "to_mkldnn")
"""Prefixes of operators that make tensors of kinds which workers do not have."""


def _kernels() -> list[tuple[str, Any]]:
    """Every overload that needs a kernel: not those that a CPU decomposes too, nor views, which PyTorch makes from
    `as_strided`."""
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    found = []
    for name in torch._C._dispatch_get_all_op_names():
        if not name.startswith("aten::") or (has(name, "CompositeImplicitAutograd") and not has(name, "CPU")):
            continue
        short = name.removeprefix("aten::")
        base, _, overload = short.partition(".")
        if short in OWN or base in ALIASING or base.startswith(REFUSED) or not (has(name, "Meta") or _computes(name)):
            continue
        op = getattr(getattr(torch.ops.aten, base, None), overload or "default", None)
        if op is not None and not _is_view(op):
            found.append((short, op))
    return found


def _computes(name: str) -> bool:
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    kinds = ("CPU", "CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional")
    return any(has(name, kind) for kind in kinds)


def _is_view(op: OpOverload) -> bool:
    """Whether results alias operands that are not written."""
    schema = op._schema
    aliases = any(r.alias_info is not None for r in schema.returns)
    return aliases and not any(a.alias_info is not None and a.alias_info.is_write for a in schema.arguments)


def register() -> None:
    """Register every kernel of the device. The libraries that hold them live as long as the process."""
    library = torch.library.Library("aten", "IMPL")
    fallback = torch.library.Library("_", "IMPL")
    for short, op in _kernels():
        library.impl(short, kernel(op), "PrivateUse1")
    for kind in sparse.CONTAINED:
        for short, function in sparse.kernels(kind, _asking).items():
            library.impl(short, function, f"{kind}PrivateUse1")
    for short, function in KERNELS.items():
        library.impl(short, function, "PrivateUse1")
    for short, function in local_answers.CPU_KERNELS.items():
        library.impl(short, function, "CPU", allow_override=True)
    for op in composites.COMPOSITES:
        short = op.name().removeprefix("aten::")
        for key in ("PrivateUse1", "AutogradPrivateUse1"):
            library.impl(short, composites.kernel(op), key)
    for short, function in decompositions.PARTS.items():
        library.impl(short, function, "AutogradPrivateUse1")
        library.impl(short, function, "PrivateUse1")
    for key in ("Conjugate", "Negative"):
        library.impl("_copy_from", torch.library.fallthrough_kernel, key)
    for key in (
        "PrivateUse1",
        "SparsePrivateUse1",
        "SparseCsrPrivateUse1",
        "NestedTensorPrivateUse1",
        "QuantizedPrivateUse1",
    ):
        fallback.fallback(_refuse, key)
    library.impl("native_group_norm", adjusted.group_norm, "AutogradPrivateUse1", with_keyset=True)
    linear.register(library)
    autocast.register(library, fallback)
    _libraries.extend((library, fallback))
    if torch.distributed.is_available():
        collectives = torch.library.Library("c10d", "IMPL")
        process_groups.register(collectives)
        _libraries.append(collectives)


def _asking(op: OpOverload) -> Kernel:
    return lambda *args, **kwargs: query(op, args, kwargs)


def _refuse(op: OpOverload, *args: Any, **kwargs: Any) -> Any:
    raise NotImplementedError(
        f"{op.name()} is not an operator of remote workers (a custom operator, or one of a layout or backend that GT does"
        " not carry). Move its operands to the CPU, or write it in terms of ATen operators"
    )
