"""Scopes label the instructions recorded inside them, whichever worker executes them."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cluster.conftest import serving
from tests.conftest import Run

SOURCE = """
import os, signal, sys
import gt
from gt.errors import WorkerLostError

def mark(number):
    return gt.full((number,), 1.0).sum().item()

def inside(name):
    with gt.scope(name):
        yield

mark(1)
with gt.scope("a"):
    mark(2)
    x = gt.ones(3)
    os.kill(gt.debug.where(x).workers[0].pid, signal.SIGKILL)
    try:
        while True:
            mark(3)
    except WorkerLostError:
        mark(4)
    with gt.scope("b"):
        gt.connect(sys.argv[1])
        mark(5)
    gt.disconnect()
    mark(6)
one, other = inside("one"), inside("other")
next(one), next(other)
mark(7)
one.close()
mark(8)
other.close()
try:
    with gt.scope("c"):
        x.tolist()
except RuntimeError:
    mark(9)
again = gt.scope("d")
with again, again:
    mark(10)
try:
    gt.scope(5)
except TypeError:
    mark(11)
"""
WANTED = {1: "", 2: "a", 4: "a", 5: "a/b", 6: "a", 7: "one/other", 8: "other", 9: "", 10: "d/d", 11: ""}


def test_what_follows_is_in_the_open_scopes_whatever_was_lost_or_ended_meanwhile(tmp_path: Path, run_python: Run) -> None:
    log = tmp_path / "log"
    with serving("--workers", "2", GT_INSTRUCTION_LOG=str(log)) as service:
        done = run_python(SOURCE, service.address, GT_ADDRESS=service.address)
        assert (done.returncode, done.stderr) == (0, "")
    heard, found = dict[tuple[int, str], str](), dict[int, str]()
    for entry in map(json.loads, log.read_text().splitlines()):
        of = entry["session"], entry["worker"]
        if entry["kind"] == "Scope":
            heard[of] = entry["detail"]["path"]
        elif entry.get("op") == "aten::full" and entry["kind"] == "Op":
            size = int(entry["outs"][0].rpartition("[")[2].removesuffix("]"))
            found[size] = heard.get(of, "")
    assert found.items() >= WANTED.items()
