"""What `gt explain` says of memory, against what a worker measures: the example's tiny Qwen3, one step."""

from __future__ import annotations

import pytest
import torch

from gt.client.session.process import process
from gt.client.session.recording import record
from gt.client.stream.operands import operand
from gt.placement import config_file
from gt.planning.footprint import ACTIVATIONS, GRADIENTS, OPTIMIZER, PARAMETERS
from gt.planning.report import Report
from gt.wire import instructions as wire
from tests.oracle.sharding.layouts import EXAMPLE, example
from tests.oracle.sharding.systems import sharded

ROWS, TOKENS = 16, 64


@pytest.mark.parametrize("layout", ["dp2", "fsdp2", "tp2"])
def test_memory_is_what_a_worker_measures(layout: str) -> None:
    with sharded(config_file.load(EXAMPLE / "sharding" / f"{layout}.yaml")) as running:
        assert running.planner is not None
        report = Report(running.planner)
        running.planner.observer = report.observe
        model, _optimizer = _step()
        stats = process.session().worker_stats()[0]
        held, size_bytes = report.held(), sum(p.nbytes for p in model.parameters())
    assert sum(held.at_end.values()) == stats.tensor_bytes
    assert sum(held.at_peak.values()) == pytest.approx(stats.peak_tensor_bytes, rel=0.1)
    assert held.at_peak[ACTIVATIONS] > held.at_peak[PARAMETERS]
    own = sum(one.local_bytes for one in report.placed())
    steps = 4 * len(report.placed())  # a number for each
    assert held.at_end[PARAMETERS] == held.at_end[GRADIENTS] == own
    assert held.at_end[OPTIMIZER] == 2 * own + steps
    assert sum(one.size_bytes for one in report.placed()) == size_bytes
    assert own == {"dp2": size_bytes, "fsdp2": size_bytes // 2}.get(layout, own)


def _step() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """Make a step, with the marks that `gt explain` adds. The state lives as long as the optimizer."""
    module = example()
    config = module.Config(
        vocab_size=1024, hidden_size=128, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=48,
        intermediate_size=384, tie_word_embeddings=True,
    )  # fmt: skip
    model: torch.nn.Module = module.Qwen3(config).to("remote")
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    ids = torch.zeros(ROWS, TOKENS, dtype=torch.int64, device="remote")
    record(wire.Phase("forward"))
    loss = torch.nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten())
    record(wire.Phase("backward"))
    loss.backward()
    record(wire.Phase("optimizer"))
    optimizer.step()
    state = (t for one in optimizer.state.values() for t in one.values())
    record(wire.Phase("end", tuple(operand(t)[0] for t in state)))
    return model, optimizer
