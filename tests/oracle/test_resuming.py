"""A run that is saved and restored by safetensors files alone continues to the bit, dropout and samples included."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import Run

TRAINS = """
import sys
import gt as torch

path, what = sys.argv[1:]

def steps(model, optimizer):
    for _ in range(3):
        loss = model(torch.randn(16, 8)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(loss.item().hex())

def save(model, optimizer):
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in state.items()}
    return torch.files.save_safetensors({**tensors, "random": torch.get_rng_state()}, path + kind.__name__, background=True)

def restore(model, optimizer):
    found, states = torch.files.load_safetensors(path + kind.__name__), {}
    model.load_state_dict({name: found[f"model.{name}"] for name in model.state_dict()})
    for name, tensor in found.items():
        if name.startswith("optimizer."):
            _, index, part = name.split(".")
            states.setdefault(int(index), {})[part] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
    torch.set_rng_state(found["random"])

for kind, options in ((torch.optim.AdamW, {"fused": True}), (torch.optim.SGD, {"momentum": 0.9})):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.Dropout(0.5), torch.nn.Linear(32, 1))
    optimizer = kind(model.parameters(), lr=0.01, **options)
    if what == "save":
        steps(model, optimizer)
        saving = save(model, optimizer)
    else:
        restore(model, optimizer)
    steps(model, optimizer)
"""


def test_a_restored_run_continues_to_the_bit(tmp_path: Path, run_python: Run) -> None:
    whole = run_python(TRAINS, str(tmp_path / "state"), "save")
    assert whole.stderr == ""
    assert {path.name for path in tmp_path.glob("state*")} == {"stateAdamW", "stateSGD"}  # the program waited for them
    resumed = run_python(TRAINS, str(tmp_path / "state"), "restore")
    losses = whole.stdout.split()
    assert [len(set(losses[:6])), len(set(losses[6:]))] == [6, 6]
    assert resumed.stdout.split() == [*losses[3:6], *losses[9:12]], resumed.stderr
