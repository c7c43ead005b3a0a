"""Programs on one layout each, of which CI runs a third; all on all by `python -m tests.oracle.sharding.programs`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.oracle.sharding.programs.catalogue import PROGRAMS
from tests.oracle.sharding.programs.nets import ADAMW, Net, classified, on
from tests.oracle.sharding.programs.placements import LAYOUTS
from tests.oracle.sharding.programs.program import compare
from tests.oracle.sharding.systems import sharded
from tests.oracle.sharding.training import relative

SHARDED = [name for name in LAYOUTS if name != "one"]
CASES = [
    pytest.param(name, SHARDED[n % len(SHARDED)], marks=[pytest.mark.long] if n % 3 else [])
    for n, name in enumerate(PROGRAMS)
]


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_a_program_shows_what_it_shows_on_a_cpu(name: str, layout: str) -> None:
    found = compare(PROGRAMS[name], layout)
    assert found.apart <= found.allowed, f"value {found.worst}"


def two_steps(device: str, first: int, read: Path | None, write: Path) -> None:
    """Go on with a model from a file, and write it to another one."""
    torch.manual_seed(0)
    model = on(device, Net())
    optimizer = ADAMW(model.parameters())
    if read is not None:
        kept = torch.load(read, map_location=device)
        model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
    for step in (first, first + 1):
        optimizer.zero_grad()
        classified(model, device, step).backward()
        optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, write)


@pytest.mark.parametrize("layouts", [("fsdp", "two axes"), ("rows", "one")])
def test_a_checkpoint_of_one_layout_goes_on_on_another(tmp_path: Path, layouts: tuple[str, str]) -> None:
    named = {name: tuple(tensor.shape) for name, tensor in Net().state_dict().items()}
    files = [tmp_path / name for name in ("half", "whole", "wanted")]
    for layout, first, read, write in ((layouts[0], 0, None, files[0]), (layouts[1], 2, files[0], files[1])):
        with sharded(LAYOUTS[layout](named)):
            two_steps("remote", first, read, write)
    two_steps("cpu", 0, None, files[0].with_suffix(".cpu"))
    two_steps("cpu", 2, files[0].with_suffix(".cpu"), files[2])
    got, wanted = (torch.load(file, map_location="cpu") for file in files[1:])
    for name, tensor in wanted["model"].items():
        assert relative(got["model"][name], tensor) < 1e-5, name
    for number, state in wanted["optimizer"]["state"].items():
        for name, tensor in state.items():
            assert relative(got["optimizer"]["state"][number][name], tensor) < 1e-4, (number, name)
