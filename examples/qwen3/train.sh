#!/usr/bin/env bash
# The whole pipeline: load and verify weights, prepare data, train. See README.md, and --help for the rest.
#   ./train.sh                                                      a tiny Qwen3 and a tiny data set, offline
#   ./train.sh --model Qwen/Qwen3-1.7B --data tatsu-lab/alpaca      the hub's files (or local folders)
#   USE_PYTORCH=1 ./train.sh                                        the same files under plain PyTorch
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
runs="$here/runs"
python="$here/../../.venv/bin/python"
[ -x "$python" ] || python="$(command -v python3)"
export PYTHONUNBUFFERED=1

if [ -n "${GT_CONFIG:-}" ]; then
    echo "GT_CONFIG: sharding files are not supported yet; unset it to run on one worker" >&2
    exit 2
fi

given() { [[ " ${arguments[*]} " == *" $1"[\ =]* ]]; }
arguments=("$@")
defaults=(--runs "$runs")
if ! given --model; then
    defaults+=(--model "$runs/tiny-qwen3" --epochs 16 --batch-size 16 --lr 3e-3)
    # Matrices this small gain nothing from a second thread, and threads that wait for each other lose all on a busy machine.
    export GT_WORKER_THREADS="${GT_WORKER_THREADS:-1}" OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
fi
given --data || defaults+=(--data "$runs/tiny-alpaca.json")
set -- "${defaults[@]}" "$@"

"$python" "$here/options.py" "$@"
for argument in "$@"; do case "$argument" in -h | --help) exit ;; esac; done
given --model || "$python" "$here/make_tiny.py" "$runs/tiny-qwen3"
given --data || "$python" "$here/make_data.py" "$runs/tiny-alpaca.json"

scripts="$here"
if [ "${USE_PYTORCH:-0}" = 1 ]; then
    # What a person would do by hand: copy the files and change the import.
    scripts="$(mktemp -d)"
    trap 'rm -rf "$scripts"' EXIT
    cp "$here"/*.py "$scripts"
    sed -i 's/^import gt as torch$/import torch/' "$scripts/model.py" "$scripts/train.py"
fi
for step in load_weights prepare_data train; do
    "$python" "$scripts/$step.py" "$@"
done
