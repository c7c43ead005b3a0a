#!/usr/bin/env bash
# Creates the virtual environment `.venv` with pinned versions; does nothing if it is up to date.
# Sourced by ./test and examples/qwen3/train.sh with the extras that they need ("example,dev"); sets $PYTHON.
# If PYTHON is already set, it is the user's own environment and is used unchanged. TORCH_VERSION: use that version of torch,
# and the packages whose versions it decides, in a separate environment `.venv-torch-VERSION` (in the folder VENVS, if set).
set -euo pipefail

find_python() {
    for candidate in python3.13 python3.12 python3.11 python3.14 python3; do
        if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "GT needs Python 3.11 or later; none was found on the PATH" >&2
    exit 1
}

OF_TORCH="sympy|mpmath|networkx|Jinja2|fsspec|filelock|typing_extensions" # packages whose versions torch decides

# $1: the top of the repository, $2: the extras
set_up() {
    local sum extra stamps=() base venv="$1/.venv" constraints="$1/constraints.txt"
    sum="$(cat "$1/pyproject.toml" "$1/constraints.txt" "$1/scripts/setup.sh" | cksum | cut -d' ' -f1)"
    if [ -n "${TORCH_VERSION:-}" ]; then
        venv="${VENVS:-$1}/.venv-torch-$TORCH_VERSION" constraints="$(mktemp)"
        sed -E "s/^torch==.*/torch==$TORCH_VERSION/; /^($OF_TORCH)==/d" "$1/constraints.txt" > "$constraints"
    fi
    for extra in ${2//,/ }; do stamps+=("$venv/gt-$extra-$sum"); done
    PYTHON="$venv/bin/python"
    if ls "${stamps[@]}" >/dev/null 2>&1; then return; fi
    base="$(find_python)"
    echo "setting up ${venv##*/} ($2; a few minutes the first time)" >&2
    if ! "$base" -m venv "$venv" >/dev/null; then
        echo "'$base -m venv' failed: install Python's venv module (on Debian: apt-get install python3-venv)" >&2
        exit 1
    fi
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --constraint "$constraints" --editable "$1[$2]"
    touch "${stamps[@]}"
}

[ -n "${PYTHON:-}" ] && [ -z "${TORCH_VERSION:-}" ] || set_up "$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)" "$1"
