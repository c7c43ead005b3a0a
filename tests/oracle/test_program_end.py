"""How a program ends and begins: nothing is said that nobody asked for, nothing is loaded that nobody needs."""

from __future__ import annotations

from functools import partial

from tests.conftest import Run, side_by_side

LEFT_ALIVE = """
import gt as torch, sys, threading, time, types

class Holds:
    def __init__(self):
        self.tensor, self.me = torch.ones(3), self

def count(x):
    while True:
        x = x + 1

def steps():
    x = torch.ones(3)
    while True:
        yield (x := x + 1)

held, running, sys.kept = Holds(), steps(), torch.ones(2)
sys.modules["users"] = types.ModuleType("users")
sys.modules["users"].tensors = [next(running), Holds()]
leaf = torch.ones(3, requires_grad=True)
leaf.register_hook(lambda g: held.tensor * g)
loss = (torch.nn.LSTM(3, 3)(leaf[None])[0] * leaf).sum()
threading.Thread(target=count, args=(torch.ones(3),), daemon=True).start()
time.sleep(0.2)
"""


def test_nothing_is_said_of_tensors_that_outlive_the_program(run_python: Run) -> None:
    for run in side_by_side(*(partial(run_python, LEFT_ALIVE + end) for end in ("", "sys.exit()"))):
        assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_a_destructor_that_computes_when_the_session_has_ended_is_told_so(run_python: Run) -> None:
    run = run_python("import gt as torch\nclass A:\n  x = torch.ones(3)\n  def __del__(self): self.x + 1\na = A()")
    assert run.stderr.splitlines()[0].startswith("Exception ignored in: <function A.__del__")
    assert run.stderr.splitlines()[-1].endswith(
        ": a destructor computes with a remote tensor, and the session ended with the program"
    )


def test_a_first_operation_does_not_import_pytorchs_compiler(run_python: Run) -> None:
    run = run_python(
        "import sys, gt; x = (gt.ones(2) + 1) // 2; print(x.softmax(0).sum().item(), 'torch._dynamo' in sys.modules)"
    )
    assert run.stdout == "1.0 False\n"


def test_a_development_mode_of_python_finds_nothing_left_open(run_python: Run) -> None:
    loader = "torch.utils.data.DataLoader(torch.arange(4), num_workers=1)"
    run = run_python(f"import gt as torch\nprint(list({loader}))", PYTHONDEVMODE="1")
    assert (run.returncode, run.stderr) == (0, "")
