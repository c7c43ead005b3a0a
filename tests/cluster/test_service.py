"""Real processes: concurrent clients, their errors, memory, logs and files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.cluster.conftest import Service, eventually, go_on, line, serving, start
from tests.conftest import Run

COUNTER = """
import sys, gt as torch
start, count = int(sys.argv[1]), int(sys.argv[2])
torch.manual_seed(start)
x, total = torch.full((8,), float(start)), 0.0
for i in range(count // 4):
    x = x + 1
    y = x * 2
    x = y - x
    x = x - 1
    if i % 1000 == 0:
        assert x.tolist() == [float(start)] * 8, (i, x)
print(x.tolist() == [float(start)] * 8, torch.rand(1).item(), torch.debug.stats().storages)
"""


@pytest.mark.parametrize("count", [10_000, pytest.param(100_000, marks=pytest.mark.long)])
def test_two_clients_of_many_operations_each_never_meet(count: int, service: Service) -> None:
    clients = [start(COUNTER, str(n), str(count), GT_ADDRESS=service.address) for n in (100, 7)]
    found = [c.communicate(timeout=120) for c in clients]
    import_free = start(
        "import sys, torch\nfor n in (100, 7):\n    torch.manual_seed(n)\n    print(torch.rand(1).item())"
    ).communicate()[0]
    for (out, err), expected in zip(found, import_free.split(), strict=True):
        assert out.split()[:2] == ["True", expected], err
        assert int(out.split()[2]) <= 4


FILL = """
import gt as torch
x = [torch.full((n,), 0x5A, dtype=torch.uint8) for n in (64, 1000, 5000, 70_000, 300_000, 3_000_000) for _ in range(20)]
print(int(sum(t.sum() for t in x)) > 0)
"""
LOOK = """
import gt as torch

def foreign(tensor):
    count = tensor.untyped_storage().nbytes()
    whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage(), 0, (count,), (1,))
    return int((whole == 0x5A).sum())

def made(n):
    x = torch.zeros(4, dtype=torch.uint8)
    yield torch.empty(n, dtype=torch.uint8)
    yield torch.empty_like(torch.zeros(n, dtype=torch.uint8))
    yield torch.empty_strided((n // 8, 2), (8, 1), dtype=torch.uint8)
    yield x.new_empty(n)
    yield torch.zeros(4, dtype=torch.uint8).resize_(n)
    yield torch.zeros(0, dtype=torch.uint8).set_(torch.zeros(4, dtype=torch.uint8).untyped_storage(), 0, (n,), (1,))
    yield torch.nn.functional.mse_loss(torch.zeros(n // 4), torch.zeros(n // 4)).reshape(1).resize_(n // 4)

print(sum(foreign(t) for n in (64, 1000, 5000, 70_000, 300_000, 3_000_000) for _ in range(3) for t in made(n)))
"""


def test_a_client_sees_nothing_of_what_another_one_freed(service: Service) -> None:
    beside = start(FILL + "\ndel x\ninput()\n", GT_ADDRESS=service.address)
    assert line(beside) == "True"
    gone = start(FILL, GT_ADDRESS=service.address)
    assert gone.communicate(timeout=60) == ("True\n", "")
    assert start(LOOK, GT_ADDRESS=service.address).communicate(timeout=60) == ("0\n", "")
    beside.communicate("\n", timeout=60)


def test_a_dead_address_is_an_error_that_says_what_was_tried(run_python: Run) -> None:
    for address in ("tcp://127.0.0.1:9", "ipc:///nowhere/socket"):
        source = "import gt, time\nbegan = time.monotonic()\ntry:\n    gt.ones(2).sum().item()\n"
        source += "except Exception as error:\n    print(time.monotonic() - began < 5, type(error).__name__, error)"
        done = run_python(source, GT_ADDRESS=address)
        assert done.stdout.startswith(f"True ConnectionLostError {address}: tried to connect: "), done.stderr


def test_what_is_fetched_lies_in_memory_as_kernels_expect_it(either: Service) -> None:
    source = """
import torch, gt
for n in (1, 300, 5_000, 10_000, 70_000, 300_000):
    x = torch.randn(n, dtype=torch.complex128)
    y = x.to("remote").cpu()
    assert (y.data_ptr() % 64, torch.equal(x, y)) == (0, True), n
    assert torch.equal(y[torch.arange(0, n, 7)], x[::7])  # by kernels that load 16 bytes at a time
    y[0] = 1
print((x.to("remote") * 2)[-1].item() == x[-1].item() * 2)
"""
    done = start(source, GT_ADDRESS=either.address)
    assert done.communicate(timeout=60) == ("True\n", "")


@pytest.mark.parametrize("either", ["tcp", pytest.param("ipc", marks=pytest.mark.long)], indirect=True)
def test_ctrl_c_in_a_fetch_returns_at_once_and_leaves_the_session_usable(either: Service) -> None:
    source = """
import gt, signal, time
x = gt.ones(2)
m = gt.full((2000, 2000), 1e-3)
print(x.sum().item())
for _ in range(30):
    m = m @ m * 1e-3
print("waiting")
try:
    m.sum().item()
except KeyboardInterrupt:
    print("interrupted")
print((x + 1).sum().item())
"""
    client = start(source, GT_ADDRESS=either.address)
    assert [line(client), line(client)] == ["2.0", "waiting"]
    time.sleep(0.3)
    began = time.monotonic()
    client.send_signal(signal.SIGINT)
    assert line(client) == "interrupted"
    assert time.monotonic() - began < 1
    assert line(client) == "4.0"
    client.wait(10)


def test_an_error_on_the_worker_names_the_users_line_and_spoils_only_what_depends_on_it(run_python: Run) -> None:
    source = """
import gt as torch
table, good = torch.ones(3, 2), torch.ones(2)
index = torch.tensor([7])
bad = torch.nn.functional.embedding(index, table)
worse = bad * 2
try:
    worse.sum().item()
except IndexError as error:
    print(error)
print((good + 1).tolist())
"""
    done = run_python(source)
    assert "index out of range" in done.stdout, done.stderr
    assert "script0.py:5" in done.stdout
    assert done.stdout.endswith("[2.0, 2.0]\n")


def test_a_failed_check_is_raised_by_the_next_fetch_and_once(run_python: Run) -> None:
    source = """
import gt as torch
def attempt(what):
    try:
        print(what())
    except Exception as error:
        print(type(error).__name__, str(error).replace(chr(10), " "))
good = torch.ones(2)
torch._assert_async(torch.tensor(0))
attempt(lambda: good.sum().item())
attempt(lambda: good.sum().item())
attempt(lambda: torch.accelerator.synchronize())
"""
    failed, good, nothing = run_python(source).stdout.splitlines()
    assert failed.startswith("RuntimeError Expected Tensor with single nonzero value")
    assert failed.endswith("script0.py:9")
    assert (good, nothing) == ("2.0", "None")


def test_with_gt_sync_every_operation_raises_at_its_line(service: Service, run_python: Run) -> None:
    source = """
import traceback
import gt as torch
from gt.nn import functional as F
table, x, scores = torch.ones(3, 2, requires_grad=True), torch.arange(3.0), torch.ones(2, 3, requires_grad=True)
index, cell = torch.tensor([7]), torch.nn.LSTM(2, 2)
def attempt(what):
    try:
        what()
        print("nothing")
    except Exception as error:
        print(type(error).__name__, traceback.extract_tb(error.__traceback__)[1].name)
def looking_up(): F.embedding(index, table)
def adding(): x.index_add_(0, index, torch.ones(1))
def losing(): F.cross_entropy(scores, torch.tensor([0, 5]))
def drawing(): torch.multinomial(torch.tensor([-1.0, 1.0]), 1)
def asserting(): torch._assert_async(torch.tensor(0))
def training(): (cell(table)[0].sum() + F.scaled_dot_product_attention(table, table, table).sum()).backward()
for what in (looking_up, adding, losing, drawing, asserting, training): attempt(what)
print(x.tolist(), table.grad.shape)
"""
    done = run_python(source, GT_ADDRESS=service.address, GT_SYNC="1")
    kinds = [
        "IndexError looking_up", "IndexError adding", "IndexError losing", "RuntimeError drawing", "RuntimeError asserting",
        "nothing", "[0.0, 1.0, 2.0] torch.Size([3, 2])",
    ]  # fmt: skip
    assert done.stdout.splitlines() == kinds, done.stderr


def test_each_client_of_a_worker_hears_what_its_kernels_warn_of_or_raises_it(service: Service, run_python: Run) -> None:
    source = """
import warnings
import gt as torch
real = (torch.ones(2) * 1j).to(torch.float32)
print(real.tolist())
warnings.simplefilter("error")
spread = torch.ones(1).std()
try:
    spread.item()
except UserWarning as warning:
    print(warning)
print(spread.isnan().item())
"""
    for _ in range(2):
        done = run_python(source, GT_ADDRESS=service.address)
        value, raised, nan = done.stdout.splitlines()
        assert (value, nan) == ("[0.0, 0.0]", "True"), done.stderr
        assert ".py:4: UserWarning: Casting complex values to real discards the imaginary part" in done.stderr
        assert done.stderr.count("Warning") == 1
        assert raised.startswith("std(): degrees of freedom is <= 0")


def test_tensors_of_a_session_that_is_closed_are_an_error_and_never_anothers(service: Service, run_python: Run) -> None:
    source = """
import sys, os, time, subprocess, gt
def attempt(what):
    try:
        print(what())
    except Exception as error:
        print(type(error).__name__, str(error).split(":")[0])
old = gt.ones(3)
print(old.sum().item())
unsent = old + 1
gt.connect(sys.argv[1])
attempt(lambda: gt.accelerator.synchronize())
for what in (old.tolist, unsent.tolist, lambda: (old + gt.ones(3)).tolist(), lambda: gt.debug.where(old)):
    attempt(what)
attempt(lambda: (gt.ones(2) + 1).tolist())
gt.disconnect()
attempt(lambda: gt.ones(2).tolist())
"""
    done = run_python(source, service.address)
    gone = "is not known to this worker"
    lines = done.stdout.splitlines()
    assert lines[:2] == ["3.0", "None"], done.stderr
    assert all(said.startswith("RuntimeError tensor") and said.endswith(gone) for said in lines[2:6]), lines
    assert lines[6:] == ["[2.0, 2.0]", "[1.0, 1.0]"]
    assert done.stderr == ""


def test_a_forked_child_that_touches_a_remote_tensor_gets_a_clear_error(run_python: Run) -> None:
    source = """
import os, gt
x = gt.ones(2)
print(x.sum().item(), flush=True)
if os.fork() == 0:
    try:
        x.sum().item()
    except Exception as error:
        print(type(error).__name__, error, flush=True)
    os._exit(0)
os.wait()
print((x + 1).sum().item())
"""
    out = run_python(source).stdout.splitlines()
    assert out[0] == "2.0"
    assert out[1].startswith("ForkError a forked child")
    assert out[2] == "4.0"


def test_a_child_forked_before_anything_remote_was_used_is_a_client_of_its_own(service: Service, run_python: Run) -> None:
    source = """
import multiprocessing, os, sys
import gt as torch
torch.manual_seed(0)
def work(factor):
    return (torch.randn(2) * factor).tolist()
child = os.fork()
if child == 0:
    if os.fork():
        os._exit(0)
    os.setsid()
    print("daemon", work(2), flush=True)
    sys.exit()
os.waitpid(child, 0)
with multiprocessing.get_context("fork").Pool(1) as pool:
    print("pool", pool.apply(work, [2]), flush=True)
print("parent", work(2), flush=True)
if os.fork() == 0:
    try:
        work(2)
    except ConnectionError as error:
        print("late", type(error).__name__, flush=True)
    os._exit(0)
os.wait()
"""
    done = run_python(source, GT_ADDRESS=service.address)
    torch.manual_seed(0)
    drawn = (torch.randn(2) * 2).tolist()
    expected = [f"daemon {drawn}", "late ForkError", f"parent {drawn}", f"pool {drawn}"]
    assert (sorted(done.stdout.splitlines()), done.stderr) == (expected, "")


def test_the_instruction_log_is_readable_by_people_and_programs(tmp_path: Path, run_python: Run) -> None:
    log = tmp_path / "log.jsonl"
    source = "import gt\nx = gt.ones(2, 3)\nprint((x @ x.t()).sum().item())"
    assert run_python(source, GT_INSTRUCTION_LOG=str(log)).stdout == "12.0\n"
    entries = [json.loads(row) for row in log.read_text().splitlines()]
    products = [e for e in entries if e.get("op") == "aten::mm" and e["kind"] == "Op"]
    assert len(products) == 1
    assert [i.split(":")[1] for i in products[0]["ins"]] == ["float32[2, 3]", "float32[3, 2]"]
    assert {"time", "session", "worker", "outs", "site"} <= set(products[0])
    shown = subprocess.run(
        [sys.executable, "-m", "gt", "log", str(log), "--op", "aten::mm"], capture_output=True, text=True, check=True
    ).stdout
    assert shown.count("aten::mm") == 2  # its definition and its run
    assert "aten::ones" not in shown


def resident_bytes(pid: int) -> int:
    return int((Path("/proc") / str(pid) / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("count", [100_000, pytest.param(1_000_000, marks=pytest.mark.long)])
def test_many_operations_leave_all_three_processes_as_large_as_they_were(count: int, service: Service) -> None:
    source = """
import sys, gt as torch
x, count = torch.ones(16), int(sys.argv[1])
def loop(n):
    y = x
    for i in range(n):
        y = y * 1.0001
    return y.sum().item()
for part in (count // 10, count - count // 10):
    loop(part)
    print(torch.debug.stats().storages)
    input()
"""
    client = start(source, str(count), GT_ADDRESS=service.address)
    processes = {"client": client.pid, "dispatcher": service.process.pid, "worker": service.workers()[0]}
    assert int(line(client)) <= 4
    before = {name: resident_bytes(pid) for name, pid in processes.items()}
    go_on(client)
    assert int(line(client)) <= 4
    grown = {name: resident_bytes(pid) - before[name] for name, pid in processes.items()}
    client.communicate("\n", timeout=10)
    assert max(grown.values()) < 2 << 20, grown


def test_freed_memory_stays_with_the_worker_until_its_session_ends(service: Service) -> None:
    source = """
import gt
for count in (1, 64 << 20):
    gt.ones(count).sum().item()
    gt.remote.synchronize()
    print("freed")
    input()
"""
    client = start(source, GT_ADDRESS=service.address)
    assert line(client) == "freed"
    (worker,) = service.workers()
    before = resident_bytes(worker)
    go_on(client)
    assert line(client) == "freed"
    assert resident_bytes(worker) - before > 250 << 20
    client.communicate("\n", timeout=10)
    eventually(lambda: resident_bytes(worker) - before < 20 << 20, 5)


def test_files_are_read_where_the_worker_sees_them_and_streamed_where_not(tmp_path: Path, run_python: Run) -> None:
    source = """
import sys, torch, gt
from safetensors.torch import save_file
path = sys.argv[1]
torch.manual_seed(0)
tensors = {"big": torch.randn(700, 9000), "half": torch.randn(3, 4).bfloat16(), "one": torch.tensor(2.5)}
tensors["none"] = torch.empty(0, 2)
save_file(tensors, path)
with_gt = gt.files.load_safetensors(path)
print(all(torch.equal(with_gt[n].cpu(), t) and with_gt[n].dtype == t.dtype for n, t in tensors.items()))
gt.files.save_safetensors(with_gt, path + ".again")
again = gt.files.load_safetensors(path + ".again")
print(all(torch.equal(again[n].cpu(), t) for n, t in tensors.items()))
"""
    seen, unseen = tmp_path / "seen", tmp_path / "unseen"
    for folder in (seen, unseen):
        folder.mkdir()
    with serving("--data", str(seen), GT_INSTRUCTION_LOG=str(tmp_path / "log")) as service:
        for folder in (seen, unseen):
            done = run_python(source, str(folder / "x.safetensors"), GT_ADDRESS=service.address)
            assert done.stdout == "True\nTrue\n", done.stderr
    kinds = [json.loads(row)["kind"] for row in (tmp_path / "log").read_text().splitlines()]
    assert kinds.count("LoadFile") == 8
    assert kinds.count("SaveFile") == 1
    assert kinds.count("Upload") >= 2 * (2 + 2)  # streamed tensors: the big one in pieces


def test_a_folder_that_is_not_there_is_refused() -> None:
    command = [sys.executable, "-m", "gt", "serve", "--address", "tcp://127.0.0.1:1", "--data", "/nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "/nowhere: no such folder" in done.stderr
