"""Tests for a machine with a CUDA device; `scripts/gpu_check.sh --dry-run` runs them on a CPU."""

from __future__ import annotations

import os

import pytest
import torch

DRY_RUN = os.environ.get("GPU_CHECK_DRY_RUN") == "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = not DRY_RUN and not torch.cuda.is_available()
    for item in items:
        if item.path.parent.name == "gpu":
            item.add_marker(pytest.mark.gpu)
            if missing:
                item.add_marker(pytest.mark.skip(reason="there is no CUDA device"))


@pytest.fixture
def local() -> torch.device:
    """The device of this process, of the worker's kind, on which local PyTorch computes the expected results."""
    return torch.device("cpu" if DRY_RUN else "cuda")
