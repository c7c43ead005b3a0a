"""Compares a model's logits with those of `transformers`, both computed in float32 whatever dtype the weights have.

Of weights in another dtype those of one layer at a time exist in float32, on both sides.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import numpy as np
import torch
from model import Qwen3
from torch import nn

TOLERANCE = 1e-5
"""Largest difference between two logits, relative to the largest logit."""


def expected(folder: Path, stored: torch.dtype) -> np.ndarray:
    """The logits of `transformers` for a checkpoint, whose weights it holds in the dtype `stored`.

    Its model is freed on return, so that ours need not lie beside it.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from transformers import AutoModelForCausalLM  # late import: it takes seconds
    from transformers.utils import logging

    logging.disable_progress_bar()
    return _logits(AutoModelForCausalLM.from_pretrained(folder, dtype=stored).eval())


def difference(model: Qwen3, expected: np.ndarray) -> float:
    """Largest relative difference of a model's logits from these. From then on the model computes in float32."""
    return float(np.abs(_logits(model) - expected).max() / np.abs(expected).max())


@torch.no_grad()
def _logits(model: nn.Module) -> np.ndarray:
    """For two rows of 32 token ids, which are the same for all models of a vocabulary."""
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, (2, 32))
    device = next(model.parameters()).device
    found = _in_float32(model)(torch.from_numpy(ids).to(device))
    return getattr(found, "logits", found).cpu().numpy()


def _in_float32(model: nn.Module) -> nn.Module:
    """Have embeddings give float32 and linear layers take it; what is between them computes in the dtype of its input."""
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.register_forward_hook(lambda module, ids, rows: rows.float())
        elif isinstance(module, nn.Linear):
            module.forward = partial(_linear_in_float32, module)
    return model


def _linear_in_float32(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    return nn.functional.linear(x, layer.weight.float(), None if layer.bias is None else layer.bias.float())
