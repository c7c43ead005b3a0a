"""Registers the device `remote` with PyTorch: its backend module, kernels and patches."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import msgspec
import torch
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

from gt.client.kernels import registration
from gt.client.patches import saved, streams
from gt.client.patches.patch import apply
from gt.client.patches.table import PATCHES
from gt.client.session.process import process
from gt.client.session.random_sequence import sequence
from gt.client.stream import devices, interrupts


@dataclass(frozen=True)
class DeviceProperties:
    """What `torch.remote.get_device_properties` says: the workers' names; bytes of memory of the one with the least left."""

    name: str
    total_memory: int


class Backend(_DummyBackendModule):
    """`torch.remote`: the functions that PyTorch and libraries expect of an accelerator's module."""

    __name__ = "torch.remote"
    _initialized = True
    Stream = streams.Stream
    Event = streams.Event

    def _is_in_bad_fork(self) -> bool:
        return process.forked

    @contextlib.contextmanager
    def device(self, device: Any) -> Iterator[None]:
        """A context that selects a device; there is only one."""
        self.set_device(device)
        yield

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        """The dtypes that `torch.autocast("remote")` may cast to."""
        return [torch.bfloat16, torch.float16]

    def manual_seed(self, seed: int) -> None:
        """Seed the session's generator."""
        sequence.seed_worker(int(seed))

    manual_seed_all = manual_seed

    def get_rng_state(self, device: Any = "remote") -> torch.Tensor:
        """The state of the session's generator: a uint8 tensor of one dim on the CPU."""
        sequence.to_worker()
        return sequence.worker_state()

    def set_rng_state(self, new_state: torch.Tensor, device: Any = "remote") -> None:
        """Set the state of the session's generator: a uint8 tensor, as `get_rng_state` gives it."""
        sequence.set_worker_state(new_state.cpu())

    def get_rng_state_all(self) -> list[torch.Tensor]:
        """The states of all devices' generators; there is one device."""
        return [self.get_rng_state()]

    def set_rng_state_all(self, new_states: list[torch.Tensor]) -> None:
        """Set the states of all devices' generators; there is one device."""
        self.set_rng_state(new_states[0])

    def seed_all(self) -> None:
        """Seed with a random number."""
        self.manual_seed(torch.seed())

    def initial_seed(self) -> int:
        """The seed that was set last."""
        return torch.initial_seed()

    seed = seed_all

    def synchronize(self, device: Any = None) -> None:
        """Wait until everything recorded so far is done. Raises the first error that has not been reported yet."""
        streams.synchronize()

    def current_stream(self, device: Any = None) -> streams.Stream:
        """The session's stream."""
        return streams.Stream()

    default_stream = current_stream

    def set_stream(self, stream: Any) -> None:
        """Does nothing: there is one stream."""
        return None

    @contextlib.contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        """A context that selects a stream; there is only one."""
        yield

    def is_current_stream_capturing(self) -> bool:
        """Never: there are no graphs of instructions."""
        return False

    def init(self) -> None:
        """Does nothing: the first operation opens the session."""
        return None

    def set_device(self, device: Any) -> None:
        """Select a device, which changes nothing. Raises RuntimeError for one that does not exist."""
        devices.check_index(torch.device("remote", device) if isinstance(device, int) else torch.device(device))

    set_device_index = set_device

    def empty_cache(self) -> None:
        """Does nothing: a worker keeps no memory for a session but its tensors."""
        return None

    def memory_stats(self, device: Any = None) -> dict[str, Any]:
        """The worker's figures (`gt.wire.messages.WorkerStats`), those of the session's memory also by PyTorch's names.

        Of several workers they are those of the one that has held the most; `gt.debug.stats` has them all.
        """
        stats = max(process.session().worker_stats(), key=attrgetter("peak_tensor_bytes"))
        return {
            "allocated_bytes.all.current": stats.tensor_bytes,
            "allocated_bytes.all.peak": stats.peak_tensor_bytes,
            **{name: value for name, value in msgspec.structs.asdict(stats).items() if value is not None},
        }

    def memory_allocated(self, device: Any = None) -> int:
        """Bytes of this session's tensors on the worker; of several, on the one that holds the most."""
        return max(stats.tensor_bytes for stats in process.session().worker_stats())

    def max_memory_allocated(self, device: Any = None) -> int:
        """The peak of `memory_allocated`, in bytes. Results of less than 64 KiB count only if they exist at this call."""
        return max(stats.peak_tensor_bytes for stats in process.session().worker_stats())

    def reset_peak_memory_stats(self, device: Any = None) -> None:
        """Let `max_memory_allocated` begin at what is allocated now."""
        process.session().worker_stats(reset_peak=True)

    def memory_reserved(self, device: Any = None) -> int:
        """The same as `memory_allocated`: a worker holds no other memory for a session."""
        return self.memory_allocated(device)

    def max_memory_reserved(self, device: Any = None) -> int:
        """The same as `max_memory_allocated`."""
        return self.max_memory_allocated(device)

    reset_max_memory_allocated = reset_peak_memory_stats

    def reset_accumulated_memory_stats(self, device: Any = None) -> None:
        """Does nothing: no figure accumulates."""
        return None

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        """Bytes of the worker's memory: what new tensors can have now, and all (`WorkerStats`).

        Of several workers they are those of the one that has the least left; `gt.debug.stats` has them all.
        """
        stats = min(process.session().worker_stats(), key=attrgetter("free_bytes"))
        return stats.free_bytes, stats.total_bytes

    get_memory_info = mem_get_info

    def empty_host_cache(self) -> None:
        """Does nothing: there is no pinned memory."""
        return None

    def ipc_collect(self) -> None:
        """Does nothing: no memory is shared with other processes."""
        return None

    def memory_summary(self, device: Any = None, abbreviated: bool = False) -> str:
        """The figures of `memory_stats`, one a line."""
        return "\n".join(f"{name}: {value}" for name, value in self.memory_stats(device).items())

    def get_device_properties(self, device: Any = None) -> DeviceProperties:
        """The names of the workers, and `total_memory`, in bytes, of the one that has the least left."""
        return DeviceProperties(self.get_device_name(device), self.mem_get_info(device)[1])

    def is_bf16_supported(self, including_emulation: bool = True) -> bool:
        """Always: every worker computes in bfloat16."""
        return True

    def get_device_name(self, device: Any = None) -> str:
        """The name of the worker; of several, separated by commas."""
        return ", ".join(worker.name for worker in process.session().welcome.workers)

    def get_device_capability(self, device: Any = None) -> tuple[int, int]:
        """(0, 0): the device has no CUDA capability."""
        return (0, 0)


class DeviceGuard(torch._C._acc.DeviceGuard):
    """Tells C++ which device it guards. C++ asks several times per operation, also where it cannot handle an exception.

    The answer is not a Python function: on entering one, Python would raise a Ctrl-C that has arrived, and C++ would abort.
    """

    type_ = itertools.repeat(torch._C._autograd.DeviceType.PrivateUse1).__next__  # type: ignore[assignment]


def install() -> None:
    """Register the device. Called once per process, when `gt` is imported."""
    _setup_privateuseone_for_python_backend("remote", backend_module=Backend(), device_guard=DeviceGuard())
    registration.register()
    saved.register()
    interrupts.install()
    apply(PATCHES)
    torch.autograd.set_multithreading_enabled(False)
    torch.set_autocast_dtype("remote", torch.get_autocast_dtype("cpu"))
