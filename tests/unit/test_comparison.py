"""How `gt check` compares tensors: norms, dtypes, names in order, and what cannot be compared."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from gt.tools.comparison import GRADIENT, Compared, Limits, compare
from gt.tools.tensor_file import TensorFile

LIMITS = Limits(1e-5, 2e-2)


def compared(
    folder: Path, got: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], computed_in: str = ""
) -> dict[str, Compared]:
    files = []
    for name, tensors in (("got", got), ("wanted", wanted)):
        safetensors.torch.save_file(tensors, folder / name, {"computed_in": computed_in})
        files.append(TensorFile(folder / name))
    return {row.name: row for row in compare(*files, LIMITS)}


@pytest.mark.parametrize(
    ("dtype", "factor", "differs"),
    [
        (torch.float32, 1 + 5e-6, False),
        (torch.float32, 1 + 2e-5, True),
        (torch.float64, 1 + 2e-5, True),
        (torch.bfloat16, 1 + 1e-2, False),
        (torch.bfloat16, 1 + 4e-2, True),
        (torch.float16, 1 + 1e-2, False),
    ],
)
def test_differences_are_relative_and_limited_by_dtype(
    dtype: torch.dtype, factor: float, differs: bool, tmp_path: Path
) -> None:
    wanted = torch.full((50, 3), 7.0, dtype=dtype)
    (row,) = compared(tmp_path, {"w": (wanted.double() * factor).to(dtype)}, {"w": wanted}).values()
    assert row.differs is differs
    assert row.size == "50x3"


def test_under_autocast_all_floats_have_the_wider_limit(tmp_path: Path) -> None:
    wanted = torch.ones(4)
    assert compared(tmp_path, {"w": wanted * 1.01}, {"w": wanted})["w"].differs
    assert not compared(tmp_path, {"w": wanted * 1.01}, {"w": wanted}, "bfloat16")["w"].differs


def test_integers_are_equal_or_differ(tmp_path: Path) -> None:
    found = compared(tmp_path, {"a": torch.tensor(3), "b": torch.tensor(3)}, {"a": torch.tensor(3), "b": torch.tensor(4)})
    assert [row.differs for row in found.values()] == [False, True]
    assert found["b"].severity > found["a"].severity == 0


def test_what_is_not_finite_is_so_in_both(tmp_path: Path) -> None:
    odd, finite = torch.tensor([1.0, float("nan")]), torch.ones(2)
    found = compared(tmp_path, {"a": odd, "b": odd.clone()}, {"a": odd, "b": finite})
    assert [row.differs for row in found.values()] == [False, True]


def test_names_are_in_order_and_a_gradient_comes_before_its_parameter(tmp_path: Path) -> None:
    names = ["layers.10.w", "layers.2.w", f"layers.2.w{GRADIENT}", "b"]
    tensors = dict.fromkeys(names, torch.ones(1))
    same = {name: tensor.clone() for name, tensor in tensors.items()}
    assert list(compared(tmp_path, same, dict(same))) == ["b", f"layers.2.w{GRADIENT}", "layers.2.w", "layers.10.w"]


def test_a_gradient_of_rounding_errors_is_compared_with_all_gradients(tmp_path: Path) -> None:
    wanted = {f"w{GRADIENT}": torch.ones(100), f"b{GRADIENT}": torch.full((2,), 1e-9), "b": torch.full((2,), 1e-9)}
    got = {**wanted, f"b{GRADIENT}": torch.full((2,), 1.001e-9), "b": torch.full((2,), 1.001e-9)}
    found = compared(tmp_path, got, wanted)
    assert [name for name, row in found.items() if row.differs] == ["b"]


def test_a_tensor_that_is_not_there_or_has_another_size_differs(tmp_path: Path) -> None:
    found = compared(tmp_path, {"a": torch.ones(2), "c": torch.ones(2)}, {"b": torch.ones(2), "c": torch.ones(3)})
    assert {name: row.reason for name, row in found.items()} == {
        "a": "not there on one worker",
        "b": "not there on several",
        "c": "F32 [2] on several workers",
    }
