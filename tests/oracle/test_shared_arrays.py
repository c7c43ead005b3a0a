"""Arrays that share what is written to a tensor: when that ends, and what it costs then. That they do, the scripts of
`test_facade.py` show."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import gt
from gt.client.session.shared_arrays import SOURCE_BYTES
from gt.wire import instructions as wire
from tests.oracle.test_caught_errors import counting


def test_a_write_to_a_tensor_is_waited_for_while_there_is_an_array(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = gt.zeros(3)
    array = tensor.numpy()
    part = array[1:]
    del array
    with counting(monkeypatch) as asked:
        tensor.add_(1)
        assert part.tolist() == [1.0, 1.0]
        del part
        tensor.add_(1)
    assert [type(request) for request in asked] == [wire.Fetch]


def test_a_source_that_nobody_has_any_more_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    source = np.zeros(3)
    tensors = [gt.from_numpy(source[1:]), gt.from_numpy(np.zeros(2))]
    del source
    with counting(monkeypatch) as asked:
        for tensor in tensors:
            tensor.add_(1)
    assert asked == []


def test_what_was_written_to_an_array_that_is_dropped_is_in_the_tensor() -> None:
    tensor = gt.zeros(3)
    view = tensor[1:]
    view.numpy()[:] = 5
    assert (tensor * 2).tolist() == [0.0, 10.0, 10.0]


def test_a_large_source_is_copied() -> None:
    source = np.zeros(SOURCE_BYTES // 8 + 1)
    tensor = gt.from_numpy(source)
    source[0] = 1
    tensor[1] = 2
    assert (tensor[:2].tolist(), source[:2].tolist()) == ([0.0, 2.0], [1.0, 0.0])


def test_a_source_that_cannot_be_written_to_stays_as_it_is() -> None:
    source = np.zeros(3)
    source.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, about such an array
        tensor = gt.from_numpy(source)
    tensor.add_(1)
    assert (tensor.tolist(), source.tolist()) == ([1.0] * 3, [0.0] * 3)


def test_a_failed_write_leaves_tensor_and_array_the_same() -> None:
    source = np.arange(3.0)
    tensor = gt.from_numpy(source)
    with pytest.raises(IndexError):
        tensor.index_fill_(0, gt.tensor([7]), 5.0)
    source[1] = 9
    assert tensor.tolist() == source.tolist() == [0.0, 9.0, 2.0]
