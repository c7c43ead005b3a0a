#!/usr/bin/env bash
# transformers 5.23.0. Missing and duplicate keys in a config.json of model_type qwen3.
# - A missing `num_key_value_heads` is 32, whatever the number of query heads; null is the number of query heads.
# - `rope_parameters` overrides an old `rope_theta`; `rope_scaling`, which is no longer written, overrides both.
# Corrects two assumptions: a missing number of kv heads equals that of query heads; the newest key wins.
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
