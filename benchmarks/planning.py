"""How long the dispatcher plans a step of a 28-layer Qwen3 for 1,024 workers: cold, and once the program repeats itself.

`python -m benchmarks.planning`: CPU time. The planner is given what a client sends; no worker is needed, as the plan is one
for all of them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch

import gt.fakes
from benchmarks.presets import load_model
from gt.client.patches import configuration
from gt.client.session.configured import configured
from gt.client.session.process import process
from gt.placement import grammar
from gt.planning.planner import Planner
from gt.wire import codec, messages
from gt.wire import instructions as wire
from gt.wire.shared import Frame

LAYERS, STEPS = 28, 9
WARM = 5
"""The first step in which nothing is new. Before it the planner learns in which order parameters are used and gathered."""
COLD_BAR_S, WARM_BAR_S = 1.0, 0.020
SHARDED = {"tp": "shard(0)", "fsdp": "fully_shard"}
THOUSAND = grammar.sharding(
    mesh={"dp": 16, "fsdp": 8, "tp": 8},
    params={
        "**.self_attn.{q,k,v}_proj.weight": SHARDED,
        "**.mlp.{gate,up}_proj.weight": SHARDED,
        "**.{o,down}_proj.weight": {"tp": "shard(1)", "fsdp": "fully_shard"},
        "**": {"fsdp": "fully_shard"},
    },
    inputs={"*": {"dp": "shard(0)"}},
)
Batch = Sequence[wire.FromClient]


def main() -> None:
    """Measure, and print a line for each."""
    steps = recorded_steps()
    planner = Planner(THOUSAND)
    times = [_plan(planner, step) for step in steps]
    cold, warming, warm = times[0], times[1:WARM], times[WARM:]
    instructions = sum(map(len, steps[-1]))
    print(f"a step of {LAYERS} layers for {THOUSAND.workers_needed:,} workers, {instructions:,} instructions; CPU time, bar")
    for name, found, bar in (("cold", cold, COLD_BAR_S), ("warm", statistics.median(warm), WARM_BAR_S)):
        print(f"{name:<8} {found * 1e3:9.1f} ms   bar {bar * 1e3:g} ms   {'met' if found <= bar else 'missed'}")
    print(
        f"between, when the calls have their plans and the loop is found: {', '.join(f'{t * 1e3:.1f}' for t in warming)} ms"
    )


def _plan(planner: Planner, step: list[Batch]) -> float:
    began = time.process_time()
    for batch in step:
        planner.rewrite(batch)
    return time.process_time() - began


def recorded_steps() -> list[list[Batch]]:
    """What a client sends in each of several training steps; the first one also makes the model."""
    configured.sharding = grammar.sharding(mesh={"x": 1}, params={"**": {"x": "replicate"}})
    configuration.install()
    steps: list[list[Batch]] = []
    with gt.fakes.System(workers=1) as system:
        sent: list[Batch] = []
        send = gt.fakes.FakeTransport.send

        def tapped(transport: gt.fakes.FakeTransport, frames: Sequence[Frame]) -> None:
            message = codec.from_client(frames[0])  # type: ignore[arg-type]
            if isinstance(message, messages.Run):
                sent.append(codec.unpack_from_client(message.items))
            send(transport, frames)

        gt.fakes.FakeTransport.send = tapped  # type: ignore[method-assign]
        step = _training()
        for _ in range(STEPS):
            step()
            process.flush()
            system.settle()
            steps.append(list(sent))
            sent.clear()
    return steps


def _training() -> Callable[[], None]:
    module = load_model()
    model = module.Qwen3(module.Config(256, 128, LAYERS, 16, 8, 8, 256)).to("remote")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    ids = torch.zeros(64, 8, dtype=torch.int64, device="remote")

    def step() -> None:
        loss = torch.nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    return step


if __name__ == "__main__":
    main()
