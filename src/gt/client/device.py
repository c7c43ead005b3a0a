"""Registers the device `remote` with PyTorch: backend module, kernels, and the answers of tensors and storages."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

from gt.client import (
    autocast,
    blame,
    calls,
    counting,
    current,
    destructors,
    engine,
    interrupts,
    linear,
    modules,
    parts,
    record,
    saved,
    scripts,
    sparse,
    special,
    storage,
    tensors,
    whole,
)
from gt.client.kernels import Kernel, kernel
from gt.client.query import query
from gt.wire import instructions as wire
from gt.wire.shared import inline

_libraries: list[torch.library.Library] = []
"""Kernels live as long as the library object that registered them."""


class Backend(_DummyBackendModule):
    """`torch.remote`: what PyTorch asks of an accelerator's module."""

    _initialized = True

    def _is_in_bad_fork(self) -> bool:
        return current.Process.forked

    @contextlib.contextmanager
    def device(self, device: Any) -> Iterator[None]:
        """There is one device, so that choosing it changes nothing."""
        self.set_device(device)
        yield

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def manual_seed(self, seed: int) -> None:
        record.record(wire.Seed(int(seed) & 0xFFFF_FFFF_FFFF_FFFF))

    manual_seed_all = manual_seed

    def get_rng_state(self, device: Any = "remote") -> torch.Tensor:
        """The state of the session's generator, as uint8 on the CPU."""
        _, state = current.session().ask(wire.GetRandomState)
        return torch.frombuffer(bytearray(inline(state)), dtype=torch.uint8)

    def set_rng_state(self, new_state: torch.Tensor, device: Any = "remote") -> None:
        with record.lock:
            record.frames.append(record.bytes_of(new_state.cpu()))
            record.segment.append(wire.SetRandomState(len(record.frames) - 1))

    def get_rng_state_all(self) -> list[torch.Tensor]:
        return [self.get_rng_state()]

    def set_rng_state_all(self, new_states: list[torch.Tensor]) -> None:
        self.set_rng_state(new_states[0])

    def seed_all(self) -> None:
        self.manual_seed(torch.seed())

    def initial_seed(self) -> int:
        return torch.initial_seed()

    def synchronize(self, device: Any = None) -> None:
        """Wait until all that was recorded is done; raises the first error that nothing has reported yet."""
        current.session().ask(wire.Synchronize)

    def set_device(self, device: Any) -> None:
        record.check_index(torch.device("remote", device) if isinstance(device, int) else torch.device(device))

    def empty_cache(self) -> None:
        return None

    def memory_stats(self, device: Any = None) -> dict[str, Any]:
        answer, _ = current.session().ask(wire.Stats)
        return dict(answer.stats)

    def memory_allocated(self, device: Any = None) -> int:
        """Bytes of this session's tensors on the worker."""
        return int(self.memory_stats()["bytes"])

    def max_memory_allocated(self, device: Any = None) -> int:
        return int(self.memory_stats().get("peak_bytes", self.memory_stats()["bytes"]))

    def reset_peak_memory_stats(self, device: Any = None) -> None:
        return None

    def is_bf16_supported(self, including_emulation: bool = True) -> bool:
        return True

    def get_device_name(self, device: Any = None) -> str:
        return current.session().welcome.worker.name

    def get_device_capability(self, device: Any = None) -> tuple[int, int]:
        return (0, 0)


class DeviceGuard(torch._C._acc.DeviceGuard):
    """Tells C++ which device it guards: asked several times an operation, also where C++ cannot bear an exception.

    The answer is no Python function: on entering one, Python would raise a Ctrl-C that has arrived, and C++ would abort.
    """

    type_ = itertools.repeat(torch._C._autograd.DeviceType.PrivateUse1).__next__  # type: ignore[assignment]


OWN = {*special.KERNELS, *parts.PARTS, "linear_backward"}


REFUSED = ("quantize_per", "_nested_from", "_nested_tensor_from_tensor", "_nested_view", "to_mkldnn")
"""How the names of operators begin that make tensors of a kind that does not travel."""


def _kernels() -> list[tuple[str, Any]]:
    """Every overload that needs a kernel: not one that a CPU composes too, not a view made from `as_strided`."""
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    found = []
    for name in torch._C._dispatch_get_all_op_names():
        if not name.startswith("aten::") or (has(name, "CompositeImplicitAutograd") and not has(name, "CPU")):
            continue
        short = name.removeprefix("aten::")
        base, _, overload = short.partition(".")
        if (
            short in OWN
            or base in special.ALIASING
            or base.startswith(REFUSED)
            or not (has(name, "Meta") or _computes(name))
        ):
            continue
        op = getattr(getattr(torch.ops.aten, base, None), overload or "default", None)
        if op is not None and not _is_view(op):
            found.append((short, op))
    return found


def _computes(name: str) -> bool:
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    kinds = ("CPU", "CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional")
    return any(has(name, kind) for kind in kinds)


def _is_view(op: calls.OpOverload) -> bool:
    """Results that alias operands which are not written."""
    schema = op._schema
    aliases = any(r.alias_info is not None for r in schema.returns)
    return aliases and not any(a.alias_info is not None and a.alias_info.is_write for a in schema.arguments)


def _register() -> None:
    library = torch.library.Library("aten", "IMPL")
    fallback = torch.library.Library("_", "IMPL")
    for short, op in _kernels():
        library.impl(short, kernel(op), "PrivateUse1")
    for kind in sparse.CONTAINED:
        for short, function in sparse.kernels(kind, _asking).items():
            library.impl(short, function, f"{kind}PrivateUse1")
    for short, function in special.KERNELS.items():
        library.impl(short, function, "PrivateUse1")
    for short, function in special.CPU_KERNELS.items():
        library.impl(short, function, "CPU", allow_override=True)
    for op in whole.WHOLE:
        short = op.name().removeprefix("aten::")
        for key in ("PrivateUse1", "AutogradPrivateUse1"):
            library.impl(short, whole.kernel(op), key)
    for short, function in parts.PARTS.items():
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
    linear.install(library)
    counting.install()
    autocast.install(library, fallback)
    _libraries.extend((library, fallback))


def _asking(op: calls.OpOverload) -> Kernel:
    return lambda *args, **kwargs: query(op, args, kwargs)


def _refuse(op: calls.OpOverload, *args: Any, **kwargs: Any) -> Any:
    raise NotImplementedError(
        f"{op.name()} is not an operator of remote workers (a custom operator, or one of a layout or backend that GT does"
        " not carry). Move its operands to the CPU, or write it in terms of ATen operators"
    )


ACCELERATOR = ("synchronize", "memory_stats", "memory_allocated", "max_memory_allocated", "empty_cache")
"""Functions of `torch.accelerator` that reach for C++ hooks which a Python device cannot give."""


def _install_accelerator() -> None:
    """`torch.accelerator` answers for the remote device where that is the accelerator."""

    def answering(original: Any, answer: Any) -> Any:
        @functools.wraps(original)
        def call(*args: Any) -> Any:
            chosen = torch.accelerator.current_accelerator()
            return answer(*args) if chosen is not None and chosen.type == "remote" else original(*args)

        return call

    for name in ACCELERATOR:
        setattr(torch.accelerator, name, answering(getattr(torch.accelerator, name), getattr(torch.remote, name)))


def install() -> None:
    """Register the device. Once per process, when `gt` is imported."""
    _setup_privateuseone_for_python_backend("remote", backend_module=Backend(), device_guard=DeviceGuard())
    _register()
    storage.install()
    saved.install()
    tensors.install(calls.forget_all)
    modules.install()
    scripts.install()
    engine.install()
    interrupts.install()
    destructors.install()
    blame.install()
    _install_accelerator()
    torch.autograd.set_multithreading_enabled(False)
    torch.set_autocast_dtype("remote", torch.get_autocast_dtype("cpu"))
