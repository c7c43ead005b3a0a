"""`python -m benchmarks [NAME ...]`: GT's costs, each measured against local PyTorch in the same run.

One line per figure: GT's median, local PyTorch's median, the ratio, the bar and whether it is met. Medians of at least
five runs, the two sides alternating, after warm-up; the same number of threads on both sides. Missed bars are only reported.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

import gt
from benchmarks import programs, qwen3


@dataclass(frozen=True)
class Figure:
    """One line of the table. `local` is None if there is nothing to compare with; times in seconds."""

    name: str
    gt: float
    local: float | None
    bar: float
    unit: str = "x"

    def line(self) -> str:
        if self.local is None:
            value, shown = self.gt * 1e6, f"{self.gt * 1e6:10.2f} us"
            return f"{self.name:<44} {shown} {'':>13} {'':>9}  bar {self.bar:g} us   {_verdict(value, self.bar)}"
        ratio = self.gt / self.local
        times = f"{_time(self.gt):>13} {_time(self.local):>13}"
        return f"{self.name:<44} {times} {ratio:8.3f}x  bar {self.bar:.3g}x   {_verdict(ratio, self.bar)}"


def _verdict(value: float, bar: float) -> str:
    return "met" if value <= bar else "missed"


def _time(value: float) -> str:
    if value > 1e6:
        return f"{value / 2**20:.1f} MiB"
    return f"{value * 1e3:.3f} ms" if value < 10 else f"{value:.2f} s"


def paired(first: Callable[[], object], second: Callable[[], object], runs: int) -> tuple[float, float]:
    """Median times in seconds of two functions, run alternately."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(runs):
        for function, kept in zip((first, second), times, strict=True):
            start = time.perf_counter()
            function()
            kept.append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1])


def chain(tensor: torch.Tensor, factor: object, count: int) -> torch.Tensor:
    for _ in range(count):
        tensor = tensor * factor  # type: ignore[operator]
    return tensor


def recorded_op() -> list[Figure]:
    """Client time of one multiplication between tensors, queued, autograd on, including its share of sending; waiting for
    the worker is not timed."""
    x, w = gt.ones(64), gt.ones(64).requires_grad_()
    per_op = []
    for _ in range(25):
        gt.remote.synchronize()
        start = time.perf_counter()
        y = chain(x, w, 1000)
        per_op.append((time.perf_counter() - start) / 1000)
        del y
    return [Figure("recorded op, queued, autograd on", statistics.median(per_op[5:]), None, 4.5)]


def op_and_fetch() -> list[Figure]:
    x, w = gt.ones(64), gt.ones(64)
    times = []
    for _ in range(300):
        start = time.perf_counter()
        (x * w).cpu()
        times.append(time.perf_counter() - start)
    return [Figure("op and fetch", statistics.median(times[50:]), None, 300)]


def chained_multiplications() -> list[Figure]:
    x, c = gt.ones(64), torch.ones(64)
    run = lambda t: chain(t, 1.0001, 2000).cpu()  # noqa: E731
    run(x), run(c)
    remote, local = paired(lambda: run(x), lambda: run(c), 15)
    return [Figure("2,000 multiplications by a number, fetch", remote, local, 2.0)]


def mlp_step() -> list[Figure]:
    """Forward, loss, backward and SGD of 64-128-10, batch 32; the loss is fetched every 50 steps."""

    def build(module: object) -> Callable[[], object]:
        torch.manual_seed(0)
        nn = module.nn  # type: ignore[attr-defined]
        model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x, y = module.randn(32, 64), module.randint(0, 10, (32,))  # type: ignore[attr-defined]

        def steps() -> float:
            for _ in range(50):
                loss = torch.nn.functional.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
            return float(loss.item())

        return steps

    remote, local = build(gt), build(torch)
    remote(), local()
    a, b = paired(remote, local, 9)
    return [Figure("MLP step 64-128-10, batch 32", a / 50, b / 50, 3.0)]


def matmul_chain() -> list[Figure]:
    x, c = gt.full((1024, 1024), 1 / 1024), torch.full((1024, 1024), 1 / 1024)

    def run(m: torch.Tensor) -> torch.Tensor:
        y = m
        for _ in range(10):
            y = y @ m
        return y.cpu()

    run(x), run(c)
    remote, local = paired(lambda: run(x), lambda: run(c), 7)
    return [Figure("10 matmuls of 1024x1024, fetch", remote, local, 1.02)]


def start_up() -> list[Figure]:
    """A process that imports, makes a tensor and prints it. The bar is twice local PyTorch's time plus a second."""

    def run(name: str) -> Callable[[], object]:
        command = [sys.executable, "-c", f"import {name}; print({name}.randn(2, 2))"]
        return lambda: subprocess.run(command, check=True, capture_output=True)

    remote, local = paired(run("gt"), run("torch"), 5)
    return [Figure("start-up: import, randn, print", remote, local, 2 + 1 / local)]


def program(name: str) -> list[Figure]:
    """One of the loops of `programs`: what it returns is the same on both sides."""
    title, build, bar = programs.PROGRAMS[name]
    remote, local = build("remote"), build("cpu")
    if (a := remote()) != (b := local()):
        print(f"  (results differ: {a!r:.60} and {b!r:.60})")
    first, second = paired(remote, local, 7)
    return [Figure(title, first, second, bar)]


def reading() -> list[Figure]:
    run = programs.reading("remote")
    run()
    times = []
    for _ in range(15):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return [Figure("200 elements read one by one", statistics.median(times), None, 10_000)]


BENCHMARKS: dict[str, Callable[[], list[Figure]]] = {
    "op": recorded_op,
    "fetch": op_and_fetch,
    "chain": chained_multiplications,
    "mlp": mlp_step,
    "matmul": matmul_chain,
    "startup": start_up,
    "items": reading,
    **{name: lambda name=name: program(name) for name in programs.PROGRAMS},  # type: ignore[misc]
    **{
        f"qwen3-{name}": lambda preset=preset: [Figure(*row) for row in qwen3.measure(preset, paired)]  # type: ignore[misc]
        for name, preset in qwen3.PRESETS.items()
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *BENCHMARKS], help="benchmarks to run (default: all)")
    names = parser.parse_args().names or list(BENCHMARKS)
    threads = gt.debug.stats().threads
    torch.set_num_threads(threads)
    print(f"torch {torch.__version__}, {threads} threads on each side; GT, local PyTorch, GT / local")
    for name in names:
        for figure in BENCHMARKS[name]():
            print(figure.line(), flush=True)


if __name__ == "__main__":
    main()
