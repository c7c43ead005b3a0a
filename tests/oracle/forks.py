"""Runs scripts, each in a fork of one process that has imported PyTorch: that takes seconds.

Reads paths of scripts; prints the exit status of each when its output is in the files `stdout` and `stderr` beside it.
"""

from __future__ import annotations

import os
import sys
import types

import torch  # noqa: F401 - what the scripts share


def execute(path: str) -> None:
    """As `python PATH` would in the script's folder, with its output in files."""
    os.chdir(os.path.dirname(path))
    for descriptor, name in ((0, os.devnull), (1, "stdout"), (2, "stderr")):
        opened = os.open(name, os.O_RDWR | os.O_CREAT, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.argv, sys.path[0] = [path], os.path.dirname(path)
    program = sys.modules["__main__"] = types.ModuleType("__main__")
    program.__file__ = path
    with open(path) as file:
        source = file.read()
    exec(compile(source, path, "exec", dont_inherit=True), vars(program))


def main() -> None:
    for line in iter(sys.stdin.readline, ""):
        if not (child := os.fork()):
            execute(line.removesuffix("\n"))
            return
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
