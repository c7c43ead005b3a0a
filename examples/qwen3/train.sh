#!/usr/bin/env bash
# The whole pipeline: load and verify weights, prepare data, train. See README.md.
#   ./train.sh                                                      a tiny Qwen3 and a tiny data set, offline
#   ./train.sh --model Qwen/Qwen3-1.7B --data tatsu-lab/alpaca      the hub's files (or local folders)
#   USE_PYTORCH=1 ./train.sh                                        the same files under plain PyTorch
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

model="" data="" revision="" data_revision="" out="" train_arguments=()
while [ $# -gt 0 ]; do
    case "$1" in
        --model) model="$2"; shift 2 ;;
        --data) data="$2"; shift 2 ;;
        --revision) revision="$2"; shift 2 ;;
        --data-revision) data_revision="$2"; shift 2 ;;
        --out) out="$2"; shift 2 ;;
        -h | --help) sed -n '2,5s/^# *//p' "$0"; echo "Other arguments go to train.py (train.py --help)."; exit 0 ;;
        *) train_arguments+=("$1"); shift ;;
    esac
done
if [ -n "${GT_CONFIG:-}" ]; then
    echo "GT_CONFIG: sharding files are not supported yet; unset it to run on one worker" >&2
    exit 2
fi

python="$here/../../.venv/bin/python"
[ -x "$python" ] || python="$(command -v python3)"
export PYTHONUNBUFFERED=1

runs="$here/runs"
mkdir -p "$runs"
if [ -z "$model" ]; then
    model="$runs/tiny-qwen3"
    "$python" "$here/make_tiny.py" "$model"
    train_arguments=(--epochs 16 --batch-size 16 --lr 3e-3 "${train_arguments[@]}")
fi
if [ -z "$data" ]; then
    data="$runs/tiny-alpaca.json"
    "$python" "$here/make_data.py" "$data"
fi
out="${out:-$runs/$(basename "$model")-tuned}"

scripts="$here"
if [ "${USE_PYTORCH:-0}" = 1 ]; then
    # What a person would do by hand: copy the files and change the import.
    scripts="$(mktemp -d)"
    trap 'rm -rf "$scripts"' EXIT
    cp "$here"/*.py "$scripts"
    sed -i 's/^import gt as torch$/import torch/' "$scripts/model.py" "$scripts/train.py"
fi

"$python" "$scripts/load_weights.py" --model "$model" ${revision:+--revision "$revision"}
folder="$(cd "$scripts" && "$python" -c 'import sys; from fetch import resolve; print(resolve(sys.argv[1], sys.argv[2] or None))' "$model" "$revision")"
prepared="$runs/$(basename "$data" .json)-$(basename "$model")"
"$python" "$scripts/prepare_data.py" --data "$data" ${data_revision:+--revision "$data_revision"} --model "$folder" --out "$prepared"
"$python" "$scripts/train.py" --model "$folder" --data "$prepared" --out "$out" "${train_arguments[@]}"
