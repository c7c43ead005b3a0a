#!/usr/bin/env bash
# torch 2.13.0, CPU. Kernels registered from Python (`torch.library.Library.impl`, `torch.library.custom_op`) are deregistered
# by a `weakref` finalizer, whose exit handler runs before every `atexit` handler that was registered before it.
# So a handler from before `import torch` (a trainer's last checkpoint, a logger's flush) finds neither kernel nor operator.
# Corrects the assumption that `atexit` handlers see the program intact, since modules are torn down after them.
#
# Seen: in the program 2.0, in a handler from after it 2.0, in a handler from before it AttributeError
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$folder/program.py" <<'PYTHON'
import atexit


def attempt(where):
    try:
        print(where, torch.ops.finding.twice(torch.ones(1)).item(), flush=True)
    except Exception as error:
        print(where, type(error).__name__, flush=True)


atexit.register(attempt, "in a handler from before it")

import torch

library = torch.library.Library("finding", "DEF")
library.define("twice(Tensor x) -> Tensor")
library.impl("twice", lambda x: x * 2, "CPU")
attempt("in the program")
atexit.register(attempt, "in a handler from after it")
PYTHON
seen="$("$folder/venv/bin/python" "$folder/program.py" | paste -sd, | sed 's/,/, /g')"
echo "$seen"
[ "$seen" = "in the program 2.0, in a handler from after it 2.0, in a handler from before it AttributeError" ]
