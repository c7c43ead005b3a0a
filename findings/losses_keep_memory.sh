#!/usr/bin/env bash
# torch 2.13.0, CPU. `mse_loss` and `smooth_l1_loss` with a reduction return one number whose storage is as large as the
# input: keeping the losses of an epoch (`losses.append(loss.detach())`) keeps a tensor of the input's size for each.
# Corrects the assumption that a 0-dim tensor takes 4 bytes. `l1_loss` and `cross_entropy` do; so does a clone.
#
# Seen: mse_loss 4000000, smooth_l1_loss 4000000, l1_loss 4, cross_entropy 4, a clone of the first 4
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
seen="$("$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch.nn import functional as F

x, y = torch.zeros(1000, 1000), torch.ones(1000, 1000)
kept = {name: getattr(F, name)(x, y) for name in ("mse_loss", "smooth_l1_loss", "l1_loss")}
kept["cross_entropy"] = F.cross_entropy(x, torch.zeros(1000, dtype=torch.int64))
kept["a clone of the first"] = kept["mse_loss"].clone()
print(", ".join(f"{name} {loss.untyped_storage().nbytes()}" for name, loss in kept.items()))
PYTHON
)"
echo "$seen"
[ "$seen" = "mse_loss 4000000, smooth_l1_loss 4000000, l1_loss 4, cross_entropy 4, a clone of the first 4" ]
