"""A sample of PyTorch's operator database; for all of it run `./test --operators`."""

from __future__ import annotations

import pytest
from torch.testing._internal.common_methods_invocations import op_db

from tests.oracle import operators

ALWAYS = {
    "add", "mul", "matmul", "mm", "bmm", "nn.functional.linear", "nn.functional.scaled_dot_product_attention", "index_put",
    "nn.functional.cross_entropy", "nn.functional.silu", "nn.functional.embedding", "softmax", "log_softmax", "nonzero",
    "unique", "masked_select", "as_strided", "cat", "svd", "fft.fft", "nn.functional.batch_norm", "nn.functional.conv2d",
    "nn.functional.dropout", "multinomial", "tensor_split", "chalf",
    "sparse.sampled_addmm", "sparse.mm",
}  # fmt: skip
SAMPLES = 60
"""Samples of an entry and dtype, drawn at random: `unique` alone has a thousand."""
CHOSEN = [e for i, e in enumerate(op_db) if i % 12 == 0 or e.name in ALWAYS]


@pytest.mark.parametrize("part", range(8))
def test_a_sample_of_the_operator_database_gives_the_cpus_results(part: int) -> None:
    outcomes = operators.check_all(CHOSEN[part::8], SAMPLES)
    assert outcomes
    assert operators.surprises(outcomes) == []
