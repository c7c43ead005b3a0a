"""Checks that each patch of PyTorch is still needed: its test must fail without it.

    python -m tests.patches            # every row: a few minutes
    python -m tests.patches numpy      # the rows that patch a name with this in it
    python -m tests.patches --page     # docs/patches.md, from the rows

An import hook leaves out a row; processes that a test starts inherit it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from gt.client.patches import table as device
from gt.client.patches.patch import Patch
from gt.facade import table as facade

ROOT = Path(__file__).parent.parent
PATCHES = (*device.PATCHES, *device.SHARDED, *device.INSPECTED, *device.JOINED, *facade.PATCHES)
TIMEOUT_S = 300
WITHOUT = """
import importlib.abc, importlib.util, os, sys

class Without(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name not in ("gt.client.patches.table", "gt.facade.table"):
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        sys.meta_path.insert(0, self)
        execute = spec.loader.exec_module
        def exec_module(module):
            execute(module)
            left_out = os.environ["LEFT_OUT"]
            for kind in ("PATCHES", "SHARDED", "INSPECTED", "JOINED"):
                rows = tuple(p for p in getattr(module, kind, ()) if f"{p.owners}: {p.names}: {p.why}" != left_out)
                setattr(module, kind, rows)
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Without())
"""
HEAD = """# What GT changes in PyTorch

A device written in Python must work with PyTorch's own Python code, which reads a CPU's memory, names devices, or calls
C++ hooks that such a device cannot provide. These are all the changes that GT makes in a program; for tensors that are not
remote, each behaves as PyTorch's original. The rows are in `src/gt/client/patches/rows/` and `src/gt/facade/table.py`.
`python -m tests.patches` runs the test of each row without its patch, and expects it to fail.

| what | since torch | why | the test that notices |
|---|---|---|---|
"""


def name(patch: Patch) -> str:
    return f"{patch.owners}: {patch.names}"


def page() -> str:
    rows = []
    for patch in PATCHES:
        what = "<br>".join(f"`{owner}.{n}`" for owner in patch.owners.split() for n in patch.names.split())
        rows.append(f"| {what} | {patch.since} | {patch.why} | `{patch.test.removeprefix('tests/')}` |\n")
    return HEAD + "".join(rows)


def is_noticed(patch: Patch) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "sitecustomize.py").write_text(WITHOUT)
        path = os.pathsep.join([folder, *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
        command = [sys.executable, "-m", "pytest", "-q", "-x", "--timeout", str(TIMEOUT_S), patch.test]
        environment = {**os.environ, "PYTHONPATH": path.rstrip(os.pathsep), "LEFT_OUT": f"{name(patch)}: {patch.why}"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode > 1:  # such as a test that does not exist
        print(done.stdout[-2000:], done.stderr[-2000:])
    return done.returncode == 1 or done.returncode < 0  # without it the process may be aborted


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.patches", description=__doc__.partition("\n")[0])
    parser.add_argument("part", nargs="?", default="", help="only rows that patch a name containing this")
    parser.add_argument("--page", action="store_true", help="print docs/patches.md")
    options = parser.parse_args()
    if options.page:
        print(page(), end="")
        return 0
    unnoticed = 0
    for patch in PATCHES:
        if options.part in name(patch):
            noticed = is_noticed(patch)
            unnoticed += not noticed
            print("needed   " if noticed else "UNNOTICED", name(patch)[:100], flush=True)
    print(f"{unnoticed} rows whose test passes without them")
    return unnoticed > 0


if __name__ == "__main__":
    sys.exit(main())
