"""A sharded training step of the 30m preset on two workers, against PyTorch's own ways to do it, alternating in one run.

`python -m benchmarks.sharding [LAYOUT ...]`; one thread each on both sides. dp2 is compared with DistributedDataParallel,
fsdp2 with FSDP2 (`fully_shard`), tp2 with DTensor's `parallelize_module`, all over gloo, and one worker with local PyTorch.
Each side is a group of processes that waits for its turn.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.presets import PRESETS, Preset, build_config, load_model
from benchmarks.processes import Process, medians

EXAMPLE = Path(__file__).parent.parent / "examples" / "qwen3"
RUNS, WARM_UP = 5, 2
BARS = {"dp2": 1.0, "fsdp2": 0.9, "tp2": 1.0}
"""The most that GT's step may take, as a multiple of the peer's."""


def main() -> None:
    """Measure layouts and print a line for each."""
    layouts = sys.argv[1:] or list(BARS)
    print(f"30m preset, two workers, one thread each; medians of {RUNS}: GT, PyTorch, GT / PyTorch")
    alone = [Side("gt", "one"), Side("torch", "one")]
    single = _medians(alone)
    _print("one", single, 1.05)
    for layout in layouts:
        found = _medians([Side("gt", layout), Side("torch", layout)])
        _print(layout, found, BARS[layout])
        if layout == "dp2":
            ours, theirs = (one / two for one, two in zip(single, found, strict=True))
            print(
                f"  speed-up from one worker to two: {ours:.2f}, PyTorch {theirs:.2f}; {ours / theirs:.3f} of it, bar 0.95"
            )


def _medians(sides: list[Side]) -> list[float]:
    try:
        return medians([side.step for side in sides], WARM_UP, RUNS)
    finally:
        for side in sides:
            side.close()


def _print(name: str, found: list[float], bar: float) -> None:
    ours, theirs = found
    verdict = "met" if ours / theirs <= bar else "missed"
    print(f"{name:<8} {ours:9.3f} s {theirs:9.3f} s {ours / theirs:8.3f}x  bar {bar:g}x  {verdict}", flush=True)


class Side:
    """The processes of one side. Each reads a line for every step, and prints how long it took."""

    def __init__(self, kind: str, layout: str) -> None:
        count = 1 if kind == "gt" or layout == "one" else 2
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        common = os.environ | {
            "OMP_NUM_THREADS": "1",
            "GT_WORKER_THREADS": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        if kind == "gt" and layout != "one":
            common["GT_CONFIG"] = str(EXAMPLE / "sharding" / f"{layout}.yaml")
        self._processes = [
            Process("benchmarks.sharding", ["--side", kind, layout], common | {"RANK": str(rank), "WORLD_SIZE": str(count)})
            for rank in range(count)
        ]

    def step(self) -> float:
        """Let every process make a step; returns the longest time, in seconds."""
        for process in self._processes:
            process.begin()
        return max(float(process.answer()) for process in self._processes)

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.end()
        for process in self._processes:
            process.wait()


# -- in a process of one side ----------------------------------------------------------------------------------------------


def serve(kind: str, layout: str) -> None:
    """Make a step for every line that comes in."""
    step = gt_step(PRESETS["30m"]) if kind == "gt" else torch_step(PRESETS["30m"], layout)
    for _ in sys.stdin:
        start = time.perf_counter()
        step()
        print(time.perf_counter() - start, flush=True)


def gt_step(preset: Preset) -> Callable[[], float]:
    """The step of an ordinary script; its placement is in GT_CONFIG."""
    import gt  # noqa: F401  late import: the other side does without

    return _step(preset, "remote", lambda model, ids, labels: (model, ids, labels))


def torch_step(preset: Preset, layout: str) -> Callable[[], float]:
    """The step of PyTorch's own parallel module for a layout, on this rank."""
    import torch  # late import: nothing of it is needed where processes are only started

    torch.set_num_threads(1)
    if layout != "one":
        torch.distributed.init_process_group("gloo")
    return _step(preset, "cpu", PEERS[layout])


def _step(preset: Preset, device: str, parallel: Callable[[Any, Any, Any], tuple[Any, Any, Any]]) -> Callable[[], float]:
    import torch  # late import: see above

    torch.manual_seed(0)
    with torch.device(device):
        model = load_model().Qwen3(build_config(preset))
        ids = torch.randint(0, preset.vocabulary, (preset.batch, preset.tokens))
        labels = torch.randint(0, preset.vocabulary, (preset.batch, preset.tokens))
    model, ids, labels = parallel(model, ids, labels)
    kinds: dict[type, list[Any]] = {}
    for parameter in model.parameters():
        kinds.setdefault(type(parameter.data), []).append(parameter)
    groups = [{"params": alike} for alike in kinds.values()]  # one call may not mix DTensors with other tensors
    optimizer = torch.optim.AdamW(groups, lr=1e-4, fused=True)

    def step() -> float:
        logits = model(ids)
        loss = torch.nn.functional.cross_entropy(logits.view(-1, preset.vocabulary), labels.view(-1))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.item())

    return step


def _own_rows(tensor: Any) -> Any:
    import torch.distributed as dist  # late import: see above

    return tensor.chunk(dist.get_world_size())[dist.get_rank()]


def _one(model: Any, ids: Any, labels: Any) -> tuple[Any, Any, Any]:
    return model, ids, labels


def _data_parallel(model: Any, ids: Any, labels: Any) -> tuple[Any, Any, Any]:
    from torch.nn.parallel import DistributedDataParallel  # late import: see above

    return DistributedDataParallel(model), _own_rows(ids), _own_rows(labels)


def _fully_sharded(model: Any, ids: Any, labels: Any) -> tuple[Any, Any, Any]:
    from torch.distributed.device_mesh import init_device_mesh  # late import: see above
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (2,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model, _own_rows(ids), _own_rows(labels)


def _tensor_parallel(model: Any, ids: Any, labels: Any) -> tuple[Any, Any, Any]:
    from torch.distributed.device_mesh import init_device_mesh  # late import: see above
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    mesh = init_device_mesh("cpu", (2,))
    for layer in model.model.layers:
        plan = {
            **{f"self_attn.{name}_proj": ColwiseParallel() for name in "qkv"},
            "self_attn.o_proj": RowwiseParallel(),
            "mlp.gate_proj": ColwiseParallel(),
            "mlp.up_proj": ColwiseParallel(),
            "mlp.down_proj": RowwiseParallel(),
        }
        parallelize_module(layer, mesh, plan)
        for name in ("heads", "kv_heads"):
            setattr(layer.self_attn, name, getattr(layer.self_attn, name) // 2)
    return model, ids, labels


PEERS = {"one": _one, "dp2": _data_parallel, "fsdp2": _fully_sharded, "tp2": _tensor_parallel}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        serve(*sys.argv[2:])
    else:
        main()
