"""`torch.accelerator` and `torch.remote` accept the arguments of PyTorch's own modules."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

import gt

DEVICES: list[Any] = [None, 0, "remote", "remote:0", torch.device("remote"), torch.device("remote", 0)]
MEMORY = (
    "memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved", "memory_stats",
    "reset_peak_memory_stats", "reset_accumulated_memory_stats", "get_memory_info",
)  # fmt: skip


@pytest.mark.parametrize("name", [*MEMORY, "synchronize"])
def test_a_function_of_the_accelerator_takes_a_device_however_it_is_named(name: str) -> None:
    function = getattr(torch.accelerator, name)
    kinds = {type(function())} | {type(function(device)) for device in DEVICES}
    assert len(kinds) == 1
    with pytest.raises(ValueError, match="doesn't match the current"):
        function("cpu")
    with pytest.raises(TypeError):
        function(None, None)


@pytest.mark.parametrize("name", MEMORY)
def test_a_function_of_the_devices_module_takes_a_device_by_name_as_those_of_cuda_do(name: str) -> None:
    function = getattr(torch.remote, "mem_get_info" if name == "get_memory_info" else name)  # type: ignore[attr-defined]
    for device in DEVICES:
        assert type(function(device=device)) is type(function(device))
    assert "device" in inspect.signature(function).parameters


def test_memory_is_counted() -> None:
    before = torch.accelerator.memory_allocated()
    held = gt.ones(1000, dtype=gt.float64)
    assert torch.accelerator.memory_allocated() - before == held.nbytes
    assert torch.accelerator.memory_reserved(held.device) == torch.accelerator.memory_allocated(held.device)
    free, total = torch.accelerator.get_memory_info()
    assert 0 < free < total


def test_the_peak_of_memory_is_counted_and_can_be_reset() -> None:
    held = gt.ones(1 << 16)
    torch.accelerator.reset_peak_memory_stats()
    resting = torch.accelerator.max_memory_allocated()
    assert resting == torch.accelerator.memory_allocated()
    passing = held * 2 + held
    del passing
    assert torch.accelerator.max_memory_allocated() == resting + 2 * held.nbytes
    assert torch.accelerator.memory_allocated() == resting
    torch.accelerator.reset_peak_memory_stats()
    assert torch.accelerator.max_memory_allocated() == resting


def test_the_dict_of_memory_stats_has_pytorchs_names_and_the_workers_figures() -> None:
    held = gt.ones(1 << 16)
    stats = torch.accelerator.memory_stats()
    assert stats["allocated_bytes.all.current"] == torch.accelerator.memory_allocated() >= held.nbytes
    assert stats["allocated_bytes.all.peak"] == torch.accelerator.max_memory_allocated()
    assert stats["storages"] == gt.debug.stats().storages
    assert None not in stats.values()


def test_another_index_than_the_one_device_has_is_an_error() -> None:
    torch.accelerator.set_device_index(0)
    for choose in (torch.accelerator.set_device_index, torch.accelerator.memory_allocated, torch.remote.set_device):  # type: ignore[attr-defined]
        with pytest.raises(RuntimeError, match="invalid device ordinal"):
            choose(1)
    assert torch.accelerator.current_device_index() == 0
    with torch.accelerator.device_index(0):
        pass
    with pytest.raises(RuntimeError, match="invalid device ordinal"), torch.accelerator.device_index(1):
        pass
    for kind in (torch.Stream, torch.Event):
        with pytest.raises(RuntimeError, match="invalid device ordinal"):
            kind("remote:1")


def test_what_is_kept_for_later_allocations_may_be_emptied() -> None:
    torch.accelerator.empty_cache()
    torch.accelerator.empty_host_cache()


CALLS: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(torch.accelerator.__all__, ()),
    "set_device_idx": (0,),
    "set_device_index": (0,),
    "device_index": (0,),
    "set_stream": (torch.Stream(),),
}


@pytest.mark.filterwarnings("ignore:Use `:FutureWarning")
@pytest.mark.parametrize("name", CALLS)
def test_everything_of_the_accelerators_module_answers(name: str) -> None:
    if name == "Graph":
        with pytest.raises(RuntimeError, match="Graph is not supported"):
            torch.accelerator.Graph()
    else:
        getattr(torch.accelerator, name)(*CALLS[name])


@pytest.mark.filterwarnings("ignore:ComplexHalf support:UserWarning")
def test_the_accelerator_says_which_dtypes_are_converted() -> None:
    dtypes = torch.accelerator.get_device_capability(0)["supported_dtypes"]
    assert {torch.float32, torch.bfloat16, torch.int64, torch.bool} < dtypes
    x = torch.ones(2, device="remote")
    assert all(x.to(dtype).to(torch.complex128).tolist() == [1, 1] for dtype in dtypes)
    with pytest.raises(ValueError, match="doesn't match the current"):
        torch.accelerator.get_device_capability("cpu")


def test_the_devices_module_has_what_libraries_ask_for() -> None:
    module: Any = torch.get_device_module("remote")
    assert module is torch.get_device_module()
    assert module.__name__ == "torch.remote"
    assert module.get_device_properties(0).total_memory == module.mem_get_info()[1]
    assert module.get_device_properties().name == module.get_device_name()
    assert "allocated_bytes.all.peak" in module.memory_summary()
    stream = module.Stream(priority=-1)
    with module.stream(stream), module.device(0), torch.Stream(), torch.accelerator.current_stream():
        assert module.current_stream() == stream == module.default_stream()
    for nothing in (module.init, module.ipc_collect, module.empty_cache, module.reset_max_memory_allocated):
        assert nothing() is None


def test_streams_and_events_are_torchs() -> None:
    stream: Any = torch.Stream()
    assert isinstance(stream, torch.Stream)
    assert stream.device == torch.ones(1, device="remote").device
    assert stream == torch.Stream(stream.stream_id, stream.device_index, stream.device_type) == torch.Stream("remote")
    assert len({stream, torch.accelerator.current_stream()}) == 1
    event = torch.Event()
    assert isinstance(event, torch.Event)
    assert event.device == stream.device
    assert stream.record_event(event) is event
    torch.ones(1, device="remote").record_stream(stream)
    torch.accelerator.set_stream(stream)
    stream.wait_event(event)
    stream.wait_stream(torch.Stream())
    event.wait(stream)


def _recorded() -> torch.Event:
    event = torch.Event()
    event.record()
    return event


WAITS: dict[str, Callable[[], Any]] = {
    "torch.Stream": lambda: torch.Stream().synchronize(),
    "torch.Event": lambda: _recorded().synchronize(),
    "an event with a time": lambda: torch.Event(enable_timing=True).record(),
    "an event of a stream": lambda: torch.Stream().record_event().synchronize(),
    "torch.accelerator": lambda: torch.accelerator.synchronize(),
    "the current stream": lambda: torch.accelerator.current_stream().synchronize(),
    "the device's stream": lambda: torch.remote.current_stream().synchronize(),  # type: ignore[attr-defined]
}


@pytest.mark.parametrize("name", WAITS)
def test_streams_and_events_wait_for_the_worker(name: str) -> None:
    torch.remote.synchronize()  # type: ignore[attr-defined]
    failed = torch.nn.functional.nll_loss(torch.zeros(1, 2, device="remote"), torch.tensor([5], device="remote"))
    with pytest.raises(IndexError):
        WAITS[name]()
    del failed


def test_an_event_is_reached_in_time() -> None:
    before, never = _recorded(), torch.Event()
    x = torch.ones(3, device="remote") + 1
    after = _recorded()
    while not after.query():
        pass
    assert before.query()
    assert never.query()
    assert torch.Stream().query() in (True, False)
    assert x.tolist() == [2, 2, 2]


def test_events_say_how_much_time_passed_on_the_worker() -> None:
    started = time.perf_counter()
    first, last = torch.Event(enable_timing=True), torch.Event(device="remote", enable_timing=True)
    with pytest.raises(ValueError, match="must be recorded"):
        first.elapsed_time(last)
    first.record()
    torch.ones(3, device="remote").add_(1)
    last.record(torch.Stream())
    assert 0 < first.elapsed_time(last) < (time.perf_counter() - started) * 1e3
    with pytest.raises(ValueError, match="enable_timing"):
        first.elapsed_time(torch.Event())


def test_an_event_for_other_processes_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="belongs to its session"):
        torch.Event(interprocess=True)
    with pytest.raises(NotImplementedError, match="belongs to its session"):
        torch.Event().ipc_handle()
