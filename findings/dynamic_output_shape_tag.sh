#!/usr/bin/env bash
# torch 2.13.0, CPU. `torch.Tag.dynamic_output_shape` is a property of an operator and not of a call. `index.Tensor` and
# `repeat_interleave.Tensor` have it, so each `x[indices]` has, although the size of what integers select follows from shapes
# alone (PyTorch's fake tensors know it); `index_select`, which computes the same, does not have it.
# Corrects the assumption that a device which computes later must wait for every call of an operator with that tag.
#
# Seen: integers tagged [7, 3]; mask tagged unknown; repeats of a given total tagged [9, 3]; index_select untagged [7, 3]
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
seen="$("$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode

aten = torch.ops.aten


def tell(name, op, call):
    tagged = "tagged" if torch.Tag.dynamic_output_shape in op.tags else "untagged"
    with FakeTensorMode():
        try:
            size = list(call(torch.empty(5, 3)).shape)
        except DynamicOutputShapeException:
            size = "unknown"
    return f"{name} {tagged} {size}"


def integers(count):
    return torch.empty(count, dtype=torch.long)


print("; ".join([
    tell("integers", aten.index.Tensor, lambda x: x[integers(7)]),
    tell("mask", aten.index.Tensor, lambda x: x[torch.empty(5, dtype=torch.bool)]),
    tell("repeats of a given total", aten.repeat_interleave.Tensor,
         lambda x: x.repeat_interleave(integers(5), dim=0, output_size=9)),
    tell("index_select", aten.index_select.default, lambda x: x.index_select(0, integers(7))),
]))
PYTHON
)"
echo "$seen"
[ "$seen" = "integers tagged [7, 3]; mask tagged unknown; repeats of a given total tagged [9, 3]; index_select untagged [7, 3]" ]
