"""`torch.accelerator` and `torch.remote` accept the arguments of PyTorch's own modules."""

from __future__ import annotations

import inspect
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


def test_what_is_kept_for_later_allocations_may_be_emptied() -> None:
    torch.accelerator.empty_cache()
    torch.accelerator.empty_host_cache()
