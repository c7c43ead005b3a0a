#!/usr/bin/env bash
# torch 2.13.0, CPU. The Python decompositions of `rnn_tanh`, `gru` and `lstm` take `dropout` and `train` and ignore them: a
# network exported in training mode computes as eager does, and after `run_decompositions()` as if its dropout between the
# layers were 0, without a warning. With p = 1 it can be seen without chance: the second layer is given nothing but zeros.
# Corrects the assumption that a decomposition differs from the operator in the last bits at most. Whatever runs these
# networks by their parts (export, tracers, transforms, a device without kernels of its own) trains them without dropout.
#
# Seen, in each of the three lines: exported as eager True; decomposed as eager False, as without dropout True
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
seen="$("$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch

for kind in (torch.nn.RNN, torch.nn.GRU, torch.nn.LSTM):
    torch.manual_seed(0)
    network, x = kind(4, 6, num_layers=2, dropout=1.0).train(), torch.randn(5, 3, 4)
    eager = network(x)[0]
    exported = torch.export.export(network, (x,))
    decomposed = exported.run_decompositions().module()(x)[0]
    network.dropout = 0.0
    print(
        f"{kind.__name__}: exported as eager {torch.allclose(exported.module()(x)[0], eager)}; "
        f"decomposed as eager {torch.allclose(decomposed, eager)}, "
        f"as without dropout {torch.allclose(decomposed, network(x)[0], atol=1e-6)}"
    )
PYTHON
)"
echo "$seen"
[ "$(grep -c ": exported as eager True; decomposed as eager False, as without dropout True" <<< "$seen")" = 3 ]
