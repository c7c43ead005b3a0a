#!/usr/bin/env bash
# torch 2.13.0, CPU and meta. A group norm of a channels-last tensor:
# - on a CPU its result and the gradient of its input are channels-last too; on meta both are contiguous. A batch norm's are
#   channels-last on both.
# - forward-mode AD (`torch.func.jvp`) raises an error: "view size is not compatible with input tensor's size and stride". It
#   works through a batch norm, and through a group norm of a contiguous tensor; the backward pass works on all of these.
# Corrects two assumptions: a channels-last tensor stays so through a norm, whatever the device; strides found on meta are a
# CPU's.
#
# Seen: group norm cpu last last meta contiguous contiguous jvp RuntimeError; batch norm cpu last last meta last last jvp ok
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
seen="$("$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch import nn


def layout(tensor):
    return "last" if tensor.is_contiguous(memory_format=torch.channels_last) else "contiguous"


def tell(name, norm):
    found, x = [name], torch.randn(2, 8, 4, 4).contiguous(memory_format=torch.channels_last)
    for device in ("cpu", "meta"):
        leaf = x.to(device).requires_grad_()
        y = norm.to(device)(leaf)
        found += [device, layout(y), layout(torch.autograd.grad(y.sum(), leaf)[0])]
        if device == "cpu":
            torch.func.jvp(norm, (x.contiguous(),), (x.contiguous(),))
            try:
                torch.func.jvp(norm, (x,), (x,))
                forward_mode = "ok"
            except RuntimeError as error:
                forward_mode = type(error).__name__
    return " ".join([*found, "jvp", forward_mode])


norms = {"group norm": nn.GroupNorm(2, 8), "batch norm": nn.BatchNorm2d(8, track_running_stats=False)}
print("; ".join(tell(name, norm) for name, norm in norms.items()))
PYTHON
)"
echo "$seen"
[ "$seen" = "group norm cpu last last meta contiguous contiguous jvp RuntimeError; batch norm cpu last last meta last last jvp ok" ]
