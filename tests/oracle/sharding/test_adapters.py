"""The example's LoRA under the example's sharding files: frozen weights are where their names say, and the numbers those of
one worker."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch

from gt.client.stream.operands import operand
from gt.placement.config_file import load
from gt.placement.layout import Sharding
from tests.oracle.qwen3.conftest import EXAMPLE
from tests.oracle.qwen3.conftest import scripts as scripts
from tests.oracle.sharding.systems import sharded
from tests.oracle.sharding.training import Trained, apart, train

Train = Callable[[Sharding | None], Trained]
VOCABULARY, ROWS, TOKENS = 64, 4, 16


@pytest.fixture
def trained(scripts: ModuleType) -> Train:
    """Trains an adapter for three steps, with dropout, and merges it."""
    ids, targets = np.random.default_rng(0).integers(0, VOCABULARY, (2, ROWS, TOKENS))
    targets[:, :3] = -100
    config = scripts.config.Config(VOCABULARY, 32, 2, 4, 4, 8, 48, tie_word_embeddings=True)

    def run(sharding: Sharding | None) -> Trained:
        with sharded(sharding) as running:
            torch.manual_seed(0)
            model = scripts.model.Qwen3(config).to("remote")
            scripts.lora.add_adapter(model, scripts.lora.Lora(rank=4, dropout=0.1))

            def backward(step: int) -> torch.Tensor:
                hidden = model(torch.from_numpy(ids).to("remote"), head=False)
                loss = scripts.loss.chunked_cross_entropy(hidden, model.lm_head.weight, targets) / ROWS
                loss.backward()
                return loss

            parameters = [p for p in model.parameters() if p.requires_grad]
            found = train(model, torch.optim.AdamW(parameters, 1e-2, eps=1e-4), 3, backward, running.collectives)
            scripts.lora.merge(model)
            found.parameters = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
        return found

    return run


@pytest.mark.parametrize("name", ["dp2", "fsdp2", "tp2", "fsdp2xtp2", "vocabulary_tp2", "sp2"])
def test_an_adapter_is_trained_and_merged_as_on_one_worker(name: str, trained: Train) -> None:
    found = apart(trained(load(EXAMPLE / "sharding" / f"{name}.yaml")), trained(None))
    assert max(found.loss, found.gradient) <= 1e-5, str(found)
    assert found.parameter <= 1e-4, str(found)


def test_a_frozen_weight_is_where_its_name_says(scripts: ModuleType) -> None:
    with sharded(load(EXAMPLE / "sharding" / "tp2.yaml")) as running:
        model = scripts.model.Qwen3(scripts.config.Config(VOCABULARY, 32, 1, 4, 4, 8, 48)).to("remote")
        scripts.lora.add_adapter(model, scripts.lora.Lora(rank=4))
        model(torch.zeros(1, 2, dtype=torch.long, device="remote")).sum().item()
        layer = model.model.layers[0].self_attn.q_proj
        held = running.planner.storages  # type: ignore[union-attr]
        placed = [held.state(held.by_id[operand(w)[0]]).placed for w in (layer.weight, layer.lora_A.weight)]
    assert placed == [(8 * 2 * 32,), (None,)]
