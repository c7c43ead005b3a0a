"""Registers the device `remote` with PyTorch: backend module, kernels, and the answers of tensors and storages."""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch.accelerator._utils import _get_device_index
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
    randomness,
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
        randomness.seed_worker(int(seed))

    manual_seed_all = manual_seed

    def get_rng_state(self, device: Any = "remote") -> torch.Tensor:
        """The state of the session's generator, as uint8 on the CPU."""
        randomness.to_worker()
        return randomness.worker_state()

    def set_rng_state(self, new_state: torch.Tensor, device: Any = "remote") -> None:
        randomness.set_worker_state(new_state.cpu())

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

    set_device_index = set_device

    def empty_cache(self) -> None:
        return None

    def memory_stats(self, device: Any = None) -> dict[str, Any]:
        answer, _ = current.session().ask(wire.Stats)
        return dict(answer.stats)

    def memory_allocated(self, device: Any = None) -> int:
        """Bytes of this session's tensors on the worker."""
        return int(self.memory_stats()["bytes"])

    def max_memory_allocated(self, device: Any = None) -> int:
        """The most of them at any time, where results of less than 64 KiB count only while they are there at this call."""
        return int(self.memory_stats()["peak_bytes"])

    def reset_peak_memory_stats(self, device: Any = None) -> None:
        current.session().ask(lambda request: wire.Stats(request, reset_peak=True))

    def memory_reserved(self, device: Any = None) -> int:
        """A worker holds no memory of this session's but its tensors."""
        return self.memory_allocated(device)

    def max_memory_reserved(self, device: Any = None) -> int:
        return self.max_memory_allocated(device)

    def reset_accumulated_memory_stats(self, device: Any = None) -> None:
        return None

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        """Bytes of the worker's memory: all but what this session's tensors take, and all."""
        total = current.session().welcome.worker.memory_bytes
        return total - self.memory_allocated(device), total

    get_memory_info = mem_get_info

    def empty_host_cache(self) -> None:
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


ACCELERATOR = (
    "synchronize",
    "empty_cache",
    "empty_host_cache",
    "get_memory_info",
    "memory_stats",
    "memory_allocated",
    "max_memory_allocated",
    "memory_reserved",
    "max_memory_reserved",
    "reset_accumulated_memory_stats",
    "reset_peak_memory_stats",
    "set_device_index",
)
"""Functions of `torch.accelerator` that reach for C++ hooks which a Python device cannot give. The device is what they may
be given."""


def _install_accelerator() -> None:
    """`torch.accelerator` answers for the remote device where that is the accelerator."""

    def answering(original: Any, answer: Any) -> Any:
        bind = inspect.signature(original).bind

        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            chosen = torch.accelerator.current_accelerator()
            if chosen is None or chosen.type != "remote":
                return original(*args, **kwargs)
            given = bind(*args, **kwargs).args
            for device in given:
                index = _get_device_index(device, optional=True)  # raises where it is of another kind
                record.check_index(torch.device("remote", index))
            return answer(*given)

        return call

    for name in ACCELERATOR:
        if hasattr(torch.accelerator, name):
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
