"""Tests of patches of PyTorch's Python that no idiom or script covers: see docs/patches.md."""

from __future__ import annotations

import pickle
import pickletools

import numpy as np
import pytest
import torch

import gt  # noqa: F401 - registers the device

pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")


def test_an_array_is_a_copy_of_the_elements() -> None:
    x = torch.arange(3, device="remote")
    array = x.numpy()
    array += 1
    assert array.tolist() == [1, 2, 3]
    assert x.tolist() == [0, 1, 2]


def test_the_result_of_a_numpy_function_is_where_its_operand_is() -> None:
    made = np.sqrt(torch.ones(3, device="remote"))
    assert isinstance(made, torch.Tensor)
    assert made.device.type == "remote"
    assert made.tolist() == [1, 1, 1]


def test_a_tensor_is_compared_with_an_array() -> None:
    equal = torch.arange(3, device="remote") == np.array([0, 5, 2])
    assert equal.tolist() == [True, False, True]


def test_another_library_takes_over_a_copy() -> None:
    x = torch.arange(3.0, device="remote")
    assert np.from_dlpack(x).tolist() == [0, 1, 2]
    assert x.__dlpack_device__() == torch.empty(0).__dlpack_device__()


def test_dtypes_follow_the_default_dtype_whatever_was_learnt_under_another() -> None:
    x, seen = torch.arange(3, device="remote"), []
    try:
        for dtype in (torch.float32, torch.float64, torch.float32, torch.float64):
            torch.set_default_dtype(dtype)
            seen.append({(x / 2).dtype for _ in range(3)})
    finally:
        torch.set_default_dtype(torch.float32)
    assert seen == [{torch.float32}, {torch.float64}, {torch.float32}, {torch.float64}]


@pytest.mark.parametrize("kind", [torch.Tensor, torch.nn.Parameter])
def test_a_pickle_names_nothing_of_gt(kind: type[torch.Tensor]) -> None:
    x = torch.ones(3, device="remote").as_subclass(kind) if kind is torch.Tensor else kind(torch.ones(3, device="remote"))
    x + 1  # caches its operand
    named = [argument for _, argument, _ in pickletools.genops(pickle.dumps(x)) if isinstance(argument, str)]
    assert [n for n in named if n == "gt" or n.startswith("gt.")] == []
