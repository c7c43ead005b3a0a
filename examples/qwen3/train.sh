#!/usr/bin/env bash
# The whole pipeline: load and verify weights, prepare data, train. See README.md, and --help for the rest.
#   ./train.sh                                                      a tiny Qwen3 and a tiny data set, offline
#   ./train.sh --model Qwen/Qwen3-1.7B --data tatsu-lab/alpaca      the hub's files (or local folders)
#   GT_CONFIG=sharding.yaml ./train.sh                              the same on several workers, placed by a file
#   USE_PYTORCH=1 ./train.sh                                        the same files under plain PyTorch
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/../../scripts/setup.sh" example
export PYTHONUNBUFFERED=1

if [ -n "${GT_CONFIG:-}" ] && [ "${USE_PYTORCH:-0}" = 1 ]; then
    echo "train.sh: GT_CONFIG=$GT_CONFIG does nothing under USE_PYTORCH=1: plain PyTorch runs in this process alone" >&2
fi

tiny=yes
for argument in "$@"; do
    case "$argument" in
        -h | --help) exec "$PYTHON" "$here/options.py" --help ;;
        --model* | --preset* | --config*) tiny=no ;; # which may name another model
    esac
done
if [ "$tiny" = yes ]; then
    # Matrices this small gain nothing from a second thread; on a busy machine threads that wait for each other are slow.
    export GT_WORKER_THREADS="${GT_WORKER_THREADS:-1}" OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
fi

run() { TRAIN_SH=$$ "$PYTHON" "$@"; } # each step ends with this shell (problems.py)
run "$here/options.py" "$@"
run "$here/load_weights.py" "$@"
run "$here/prepare_data.py" "$@"
if [ "${USE_PYTORCH:-0}" = 1 ]; then
    # As a user would do by hand: a copy of train.py with its import changed.
    export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"
    run -c "$(sed 's/^import gt as torch\b/import torch/' "$here/train.py")" "$@"
else
    run "$here/train.py" "$@"
fi
