"""Start and end of a program: no unwanted output, no unneeded imports."""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from pathlib import Path

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


AT_EXIT = """
import atexit, queue, sys, threading, weakref

class Kept: pass
kept, steps = Kept(), queue.Queue()

def compute(name):
    x = torch.linalg.svd(torch.ones(3, 5) * len(name))[1][0]
    print(name, x.item(), torch.nn.functional.conv1d(torch.ones(1, 1, 5), torch.ones(1, 1, 3)).sum().item(), flush=True)

def save():
    while True:
        print("saved", (torch.ones(2) * steps.get()).sum().item(), flush=True)
        steps.task_done()

def finish():
    steps.put(21)
    steps.join()
    sys.exit(7)

weakref.finalize(kept, compute, "finalizer")
atexit.register(compute, "handler")
atexit.register(lambda: [][0])
atexit.register(finish)
import gt as torch
threading.Thread(target=save, daemon=True).start()
atexit.register(compute, "later handler")
print("end of main")
"""


def test_handlers_and_finalizers_of_before_the_import_compute_as_under_torch(run_python: Run) -> None:
    plain = AT_EXIT.replace("import gt as torch", "import torch")
    remote, local = side_by_side(lambda: run_python(AT_EXIT), lambda: run_python(plain))
    assert remote.stdout == local.stdout
    assert len(local.stdout.splitlines()) == 5
    for run in (remote, local):
        ends = [line for line in run.stderr.splitlines() if not line.startswith((" ", "Traceback", "Exception ignored"))]
        assert (run.returncode, ends) == (0, ["SystemExit: 7", "IndexError: list index out of range"])


def test_the_instruction_log_of_a_program_that_has_ended_has_all_of_it(tmp_path: Path, run_python: Run) -> None:
    log = tmp_path / "log"
    early = "import atexit\natexit.register(lambda: torch.ones(2).exp())\n"
    run = run_python(
        early + "import gt as torch\nx = torch.ones(2)\nfor _ in range(3000): x = x * 2", GT_INSTRUCTION_LOG=str(log)
    )
    assert (run.returncode, run.stderr) == (0, "")
    done = [entry["op"] for line in log.read_text().splitlines() if (entry := json.loads(line))["kind"] == "Op"]
    assert Counter(done) == {"aten::ones": 2, "aten::mul.Tensor": 3000, "aten::exp": 1}


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


TRACED = """
import sys, threading, time
import gt as torch

def trace(frame, event, argument):
    if frame.f_globals["__name__"].partition(".")[0] == "gt" and threading.current_thread().name == "gt-flush":
        seen.append((frame.f_code.co_name, frame.f_lineno))
    return trace

seen = []
threading.settrace(trace), threading.setprofile(trace)
torch.ones(1).item()
time.sleep(0.1)  # the thread wakes up meanwhile
print({name for name, line in seen}, len({line for name, line in seen}) < 5)
"""


def test_a_programs_tracer_is_not_told_what_gts_thread_does(run_python: Run) -> None:
    assert run_python(TRACED).stdout == "{'_flush_aged'} True\n"
