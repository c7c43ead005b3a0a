#!/usr/bin/env bash
# torch 2.13.0, CPU. Random kernels write in the order of memory, not of indices: with one seed, `uniform_` and dropout give a
# transposed tensor the transpose of what they give its memory, so that x.t() and its contiguous copy have other elements
# dropped. `normal_` has two algorithms besides: from 16 elements on, a contiguous tensor has other numbers than a transposed
# one or a view with gaps, which have none in common with it.
# Corrects the assumption that seed, shape and dtype decide the elements: whoever draws a part of a tensor, or the whole of it
# elsewhere (sharding, replays, recomputed activations), needs the strides as well.
#
# Seen: dropout of x.t() as of x.t().contiguous(): False, as of x: True; in order of memory: uniform_ True, normal_ False; gaps: 15 of 15 alike, 0 of 16
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
seen="$("$folder/venv/bin/python" - <<'PYTHON'
import torch


def kept(x):
    torch.manual_seed(0)
    return torch.nn.functional.dropout(x, 0.5) != 0


def drawn(name, x):
    torch.manual_seed(0)
    return getattr(x, name)()


def in_order_of_memory(name):
    return torch.equal(drawn(name, torch.empty(6, 8).t()), drawn(name, torch.empty(6, 8)).t())


def alike(count):
    """How many numbers a contiguous tensor and a view with gaps have in common, place by place."""
    return int((drawn("normal_", torch.empty(count)) == drawn("normal_", torch.empty(2 * count)[::2])).sum())


x = torch.ones(6, 8)
print(
    f"dropout of x.t() as of x.t().contiguous(): {torch.equal(kept(x.t()), kept(x.t().contiguous()))}, "
    f"as of x: {torch.equal(kept(x.t()), kept(x).t())}; "
    f"in order of memory: uniform_ {in_order_of_memory('uniform_')}, normal_ {in_order_of_memory('normal_')}; "
    f"gaps: {alike(15)} of 15 alike, {alike(16)} of 16"
)
PYTHON
)"
echo "$seen"
[ "$seen" = "dropout of x.t() as of x.t().contiguous(): False, as of x: True; in order of memory: uniform_ True, normal_ False; gaps: 15 of 15 alike, 0 of 16" ]
