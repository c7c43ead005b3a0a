"""A sample of PyTorch's operator database with placed operands; all of it by `python -m tests.oracle.sharding.operators`."""

from __future__ import annotations

import random

import pytest
from torch.testing._internal.common_methods_invocations import op_db

from tests.oracle.sharding.operators import MESHES, try_entries

ALWAYS = {
    "add", "matmul", "bmm", "nn.functional.linear", "nn.functional.cross_entropy", "nn.functional.embedding", "softmax",
    "nn.functional.scaled_dot_product_attention", "cat", "index_put", "gather", "nn.functional.conv2d", "sum", "var",
    "nn.functional.batch_norm", "nn.functional.layer_norm", "as_strided", "view", "fmax", "native_group_norm",
}  # fmt: skip
CHOSEN = [e for i, e in enumerate(op_db) if i % 48 == 0 or e.name in ALWAYS]


@pytest.mark.parametrize("mesh", MESHES)
def test_operators_with_placed_operands_give_the_cpus_results(mesh: str) -> None:
    totals = try_entries(CHOSEN, mesh, random.Random(mesh), samples=1)
    assert totals.samples > len(CHOSEN)
    assert totals.wrong == []
    assert totals.refused == []
    assert totals.calls["sharded"] > 0.5 * totals.calls.total()
