"""Signals at random moments: their exceptions are raised at once, and no operation is lost or run twice."""

from __future__ import annotations

import random
import select
import signal
import time

import pytest

from tests.cluster.conftest import Service, line, start

LOOPS = {
    "a chain": """
        x, n = x + 1, n + 1
        if n % 300 == 0: assert x.tolist() == [float(n)] * 4""",
    "fetches": """
        x, n = x + 1, n + 1
        assert x[0].item() == n""",
    "autograd": """
        l = (torch.relu(w + x) * w).sum()
        l.backward()
        w.grad = None
        x, n = x + 1, n + 1""",
    "uploads of several frames": """
        b, s = bigs[n % 7].to("remote"), torch.tensor([float(n % 7)] * 3)
        x, n = x + (b[:4] - s.sum() / 3) + 1, n + 1
        assert b[-1].item() == s[0].item() == (n - 1) % 7""",
    "uploads and fetches in shared memory": """
        b = huge[n % 3].to("remote")
        x, n = x + (b[:4] - b[-1]) + 1, n + 1
        assert b.cpu()[::99_999].tolist() == [(n - 1.0) % 3] * 7""",
    "shapes that are asked for": """
        found = (torch.arange(10) % 3 == 0).nonzero()
        x, n = x + 1, n + 1
        assert found.flatten().tolist() == [0, 3, 6, 9]""",
}
SOURCE = """
import gc, os, signal, sys, torch as local, gt as torch
signal.signal(signal.SIGUSR1, signal.default_int_handler)
x, n = torch.zeros(4), 0
w = torch.ones(4, requires_grad=True)
bigs = [local.full((50_000,), float(i)) for i in range(7)]
huge = [local.full((600_000,), float(i)) for i in range(3)]
def work():
    global x, n
    while True:BODY
for warm in range(2):
    (torch.arange(10) % 3 == 0).nonzero(), torch.debug.stats(), (x[0] + 1).item(), huge[0].to("remote").cpu()
files = len(os.listdir("/proc/self/fd"))
for _ in range(ROUNDS):
    try:
        print("armed")
        work()
    except KeyboardInterrupt:
        pass
    assert x.tolist() == [float(n)] * 4, (x, n)
found = b = s = l = w.grad = None
gc.collect()
print(torch.debug.stats().storages, len(os.listdir("/proc/self/fd")) - files)
"""
ROUNDS = 50


SENT = [
    *((kind, signal.SIGINT) for kind in LOOPS),
    ("autograd", signal.SIGUSR1),
    *(pytest.param(kind, signal.SIGUSR1, marks=pytest.mark.long) for kind in LOOPS if kind != "autograd"),
]


@pytest.mark.parametrize(("kind", "sent"), SENT)
def test_a_signal_that_raises_loses_and_doubles_nothing(kind: str, sent: signal.Signals, service: Service) -> None:
    source = SOURCE.replace("BODY", LOOPS[kind]).replace("ROUNDS", str(ROUNDS))
    client, pick = start(source, GT_ADDRESS=service.address), random.Random(1)
    assert client.stdout is not None
    for _ in range(ROUNDS):
        assert line(client) == "armed"
        time.sleep(pick.choice([0.001, 0.01, 0.03]) * pick.random())
        client.send_signal(sent)
        assert select.select([client.stdout], [], [], 5)[0], "the Ctrl-C was lost"
    storages, files = map(int, line(client).split())
    assert storages <= 4
    assert files <= 0
    _, said = client.communicate(timeout=20)
    assert (client.returncode, said) == (0, "")


@pytest.mark.parametrize("waits", [True, False])
def test_a_signals_handler_may_use_the_session_whatever_it_interrupts(waits: bool, service: Service) -> None:
    source = """
import os, signal, sys, threading, time, torch as local, gt as torch
x, seen, uploads = torch.ones(4), [], [local.full((225_000,), float(i)) for i in range(30)]
signal.signal(signal.SIGUSR1, lambda *_: seen.append((x + 1).sum().item()))
def send():
    while len(seen) < 20:
        time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGUSR1)
threading.Thread(target=send, daemon=True).start()
while len(seen) < 20:
    if sys.argv[1] == "True":
        m = torch.ones(500, 500)
        assert (m @ m @ m)[0, 0].item() == 250_000
    else:
        assert [u[-1].item() for u in [u.to("remote") for u in uploads]] == list(range(30))
signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # one more may have been sent
print(set(seen))
"""
    client = start(source, str(waits), GT_ADDRESS=service.address)
    assert client.communicate(timeout=60) == ("{8.0}\n", "")


def test_ctrl_c_while_the_service_starts_leaves_it_usable() -> None:
    source = """
import gt
print("imported")
try:
    while True:
        gt.ones(2).sum().item()
except KeyboardInterrupt:
    print("interrupted")
print(gt.ones(2).sum().item())
"""
    client = start(source)
    assert line(client) == "imported"
    time.sleep(0.1)
    client.send_signal(signal.SIGINT)
    out, err = client.communicate(timeout=60)
    assert out.splitlines()[-2:] == ["interrupted", "2.0"], err
    assert err == ""
