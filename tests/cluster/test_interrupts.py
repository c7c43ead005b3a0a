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
def limit(*_):
    raise TimeoutError
signal.signal(signal.SIGUSR1, limit)
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
    except (KeyboardInterrupt, TimeoutError):
        pass
    assert x.tolist() == [float(n)] * 4, (x, n)
found = b = s = l = w.grad = None
gc.collect()
print(torch.debug.stats().storages, len(os.listdir("/proc/self/fd")) - files)
"""
ROUNDS = 50


OWN = ("autograd", "a chain", "uploads and fetches in shared memory")
"""Loops in which a program's own handler that raises was fatal or lost."""
SENT = [
    *((kind, signal.SIGINT) for kind in LOOPS),
    *((kind, signal.SIGUSR1) for kind in OWN),
    *(pytest.param(kind, signal.SIGUSR1, marks=pytest.mark.long) for kind in LOOPS if kind not in OWN),
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
        assert select.select([client.stdout], [], [], 5)[0], "the signal was lost"
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


OWN_HANDLERS = """
import asyncio, ctypes, faulthandler, signal, tempfile
from signal import getsignal, signal as set_handler
def mine(number, frame): seen.append(frame.f_code.co_name)
def told(number):
    libc, found = ctypes.CDLL(None), ctypes.create_string_buffer(512)
    libc.sigaction(number, None, found)
    return found.raw[:16] + found.raw[136:140]  # the function, signals that it blocks, flags
seen, dump = [], tempfile.TemporaryFile()
signal.signal(signal.SIGUSR1, mine)
signal.siginterrupt(signal.SIGUSR1, False)
signal.signal(signal.SIGUSR2, mine)
faulthandler.register(signal.SIGUSR2, file=dump, chain=True)
before = told(signal.SIGUSR1), told(signal.SIGUSR2)
import gt as torch
assert (told(signal.SIGUSR1), told(signal.SIGUSR2)) == before
assert getsignal(signal.SIGUSR1) is signal.getsignal(signal.SIGUSR2) is mine
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
signal.raise_signal(signal.SIGUSR2)
dump.seek(0)
assert b"most recent call first" in dump.read() and seen == ["<module>"], seen
other = lambda number, frame: None
assert set_handler(signal.SIGUSR1, other) is mine
assert signal.signal(signal.SIGUSR1, signal.SIG_IGN) is other
assert signal.signal(signal.SIGUSR1, signal.SIG_DFL) is signal.SIG_IGN
try:
    signal.signal(signal.SIGUSR1, None)
except TypeError:
    assert signal.signal(signal.SIGUSR1, mine) is signal.SIG_DFL

async def counted():
    counts, x = [], torch.zeros(4)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, counts.append, 1)
    for n in range(1, 51):
        signal.setitimer(signal.ITIMER_REAL, 0.0005)
        while not alarms:
            x = x + 1
        alarms.clear()
        signal.raise_signal(signal.SIGUSR1)
        while len(counts) < n:
            x = x + 1
            await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    return len(counts)
alarms = []
signal.signal(signal.SIGALRM, lambda *_: alarms.append(1))
print(asyncio.run(counted()))

async def cancelled():
    try:
        signal.raise_signal(signal.SIGINT)
        while True:
            (torch.ones(3) + 1).sum().item()
            await asyncio.sleep(0)
    except asyncio.CancelledError:
        print("cancelled")
        raise
try:
    asyncio.run(cancelled())
except KeyboardInterrupt:
    print("interrupted")
"""


def test_a_program_sees_its_own_handlers_and_so_does_asyncio(service: Service) -> None:
    client = start(OWN_HANDLERS, GT_ADDRESS=service.address)
    out, err = client.communicate(timeout=60)
    assert (out, err) == ("50\ncancelled\ninterrupted\n", "")


WAITS = """
import os, signal, threading, time, gt as torch
from gt.client.stream.segment import recorder
def limit(*_): raise TimeoutError("limit")
signal.signal(signal.SIGALRM, limit)
m, w = torch.ones(1500, 1500), torch.ones(3, requires_grad=True)
hooked = w * 2
hooked.register_hook(lambda gradient: time.sleep(60))
def hold():
    with recorder.lock:
        held.set()
        over.wait(60)
def multiply():
    product = m
    for _ in range(20):
        product = product @ m
    return product.sum().item()
def waits(call):
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        call()
    except TimeoutError as error:
        print(error)
held, over = threading.Event(), threading.Event()
waits(multiply)
waits(lambda: time.sleep(60))
waits(lambda: hooked.sum().backward())
threading.Thread(target=hold).start()
held.wait()
waits(lambda: (m + 1).sum().item())
over.set()
def outer(*_):
    signal.setitimer(signal.ITIMER_REAL, 0.002)
    try:
        while True:
            (w * 2).sum().item()
    except TimeoutError:
        raise KeyError("outer") from None
signal.signal(signal.SIGVTALRM, outer)
for _ in range(20):
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.002)
    try:
        while True:
            (w * 2).sum().backward()
    except KeyError:
        pass
print((torch.ones(2) + 1).tolist())
"""


def test_a_limit_of_duration_ends_whatever_waits(service: Service) -> None:
    """For a worker, for the system, in a hook, for another thread; and in the handler of another limit."""
    client = start(WAITS, GT_ADDRESS=service.address)
    out, err = client.communicate(timeout=60)
    assert (out, err) == ("limit\n" * 4 + "[2.0, 2.0]\n", "")


def test_a_limit_of_duration_ends_the_start_of_the_service() -> None:
    """Also where the first operation imports what inference needs: what modules do is not the program's."""
    source = """
import signal, gt
def limit(*_): raise TimeoutError("limit")
signal.signal(signal.SIGALRM, limit)
for moment in (0.05, 0.2):
    signal.setitimer(signal.ITIMER_REAL, moment)
    try:
        while True:
            gt.ones(2).add(gt.rand(2)).sum().item()
    except TimeoutError as error:
        print(error)
print(gt.ones(2).sum().item())
"""
    client = start(source)
    assert client.communicate(timeout=60) == ("limit\nlimit\n2.0\n", "")
