#!/usr/bin/env bash
# Checks for a machine with a CUDA device: sampled databases, bitwise replay, the main job, the benchmark. At most
# 8 minutes in all and 4 per section. Does nothing if there is no CUDA device.
#   scripts/gpu_check.sh              PYTHON=/path/to/python uses that environment unchanged (torch 2.11 and later)
#   scripts/gpu_check.sh --dry-run    the same on a CPU, a few seconds per section; part of CI
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh example,dev
export PYTHONPATH="$PWD/src:$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHON HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1

TOTAL_S=480 SECTION_S=240
steps=(--rows 400 --held-out 20 --epochs 8) figures=(op fetch chain mlp)
if [ "${1:-}" = --dry-run ]; then
    export GPU_CHECK_DRY_RUN=1 CUDA_VISIBLE_DEVICES=""
    steps=(--rows 8 --held-out 2 --max-tokens 64 --max-steps 2 --no-eval) figures=(op)
elif ! "$PYTHON" -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then
    echo "gpu_check: there is no CUDA device; nothing was checked"
    exit 0
fi
"$PYTHON" -c "import sys, torch; gpu = torch.cuda.is_available(); \
print(f'Python {sys.version.split()[0]}, torch {torch.__version__},', torch.cuda.get_device_name() if gpu else 'no GPU')"

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
failed=()
# $1: its name, the rest: its command. A section that runs out of time has failed; the others still run.
section() {
    local name="$1" left=$((TOTAL_S - SECONDS)) began=$SECONDS code=0
    shift
    echo "== $name"
    if [ "$left" -lt 10 ]; then
        code=124
    else
        timeout --kill-after 10 "$((left < SECTION_S ? left : SECTION_S))" "$@" || code=$?
    fi
    case "$code" in
        0) echo "== $name: passed in $((SECONDS - began)) s" ;;
        124 | 137) echo "== $name: out of time" && failed+=("$name") ;;
        *) echo "== $name: failed ($code)" && failed+=("$name") ;;
    esac
}

section "device, databases, replay" "$PYTHON" -m pytest -o addopts= -q -p no:cacheprovider tests/gpu
section "main job" examples/qwen3/train.sh --runs "$folder/runs" "${steps[@]}"
section "benchmark" env GT_WORKER_THREADS=1 "$PYTHON" -m benchmarks "${figures[@]}"
if [ "${#failed[@]}" -gt 0 ]; then
    printf 'gpu_check: failed: %s\n' "${failed[@]}"
    exit 1
fi
echo "gpu_check: everything passed in $SECONDS s"
