#!/usr/bin/env bash
# transformers 5.23.0. What a config.json of model_type qwen3 leaves out, and what it says twice.
# - `num_key_value_heads` left out is 32, whatever the number of query heads; null is the number of query heads.
# - `rope_parameters` beats an old `rope_theta` beside it; a `rope_scaling` that is no longer written beats both.
# The guesses it corrects: no kv heads means as many as query heads; the newest key wins.
#
# Seen: left out 32, null 4; both 5000.0, all three 7000.0
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check transformers==5.23.0
seen="$(TRANSFORMERS_VERBOSITY=error "$folder/venv/bin/python" - <<'PYTHON'
from transformers import Qwen3Config

sizes = {"hidden_size": 32, "num_attention_heads": 4}
heads = [Qwen3Config.from_dict(sizes | more).num_key_value_heads for more in ({}, {"num_key_value_heads": None})]
ropes = {"rope_theta": 1000.0, "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}}
both = Qwen3Config.from_dict(sizes | ropes)
three = Qwen3Config.from_dict(sizes | ropes | {"rope_scaling": {"rope_type": "default", "rope_theta": 7000.0}})
print(f"left out {heads[0]}, null {heads[1]};", end=" ")
print(f"both {both.rope_parameters['rope_theta']}, all three {three.rope_parameters['rope_theta']}")
PYTHON
)"
echo "$seen"
[ "$seen" = "left out 32, null 4; both 5000.0, all three 7000.0" ]
