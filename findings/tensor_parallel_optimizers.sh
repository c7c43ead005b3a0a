#!/usr/bin/env bash
# torch 2.13.0, CPU, gloo. `parallelize_module` makes DTensors of the parameters that its plan names and leaves the others as they
# are, such as those of norms. On a model that has both, `clip_grad_norm_` and AdamW with `foreach` or `fused` raise "got mixed
# torch.Tensor and DTensor"; the plain loop over parameters works, and so do a parameter group and a call for each kind.
# Corrects the assumption that optimizers and clipping take a tensor-parallel model as they take any other.
#
# Seen: loop works, foreach mixed, fused mixed, clipping mixed, fused by groups works
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$folder/program.py" <<'PYTHON'
import sys

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module


def attempt(name, act):
    try:
        act()
        seen = "works"
    except RuntimeError as error:
        seen = "mixed" if "mixed torch.Tensor and DTensor" in str(error) else str(error)
    if dist.get_rank() == 0:
        print(name, seen, flush=True)


def train(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model = torch.nn.Sequential(torch.nn.LayerNorm(8), torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 8))
    parallelize_module(model, init_device_mesh("cpu", (2,)), {"1": ColwiseParallel(), "3": RowwiseParallel()})
    model(torch.ones(4, 8)).sum().backward()
    for name, options in (("loop", {"foreach": False}), ("foreach", {"foreach": True}), ("fused", {"fused": True})):
        attempt(name, torch.optim.AdamW(model.parameters(), **options).step)
    attempt("clipping", lambda: torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0))
    kinds = {}
    for parameter in model.parameters():
        kinds.setdefault(type(parameter.data), []).append(parameter)
    groups = [{"params": alike} for alike in kinds.values()]
    attempt("fused by groups", torch.optim.AdamW(groups, fused=True).step)
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.spawn(train, (sys.argv[1],), 2)
PYTHON
seen="$("$folder/venv/bin/python" -W ignore "$folder/program.py" "$folder" 2> "$folder/errors" | paste -sd, | sed 's/,/, /g')"
echo "$seen"
[ "$seen" = "loop works, foreach mixed, fused mixed, clipping mixed, fused by groups works" ] || { cat "$folder/errors"; exit 1; }
