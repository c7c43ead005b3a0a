#!/usr/bin/env bash
# Makes the virtual environment `.venv` with pinned versions; does nothing where it is up to date.
# Sourced by ./run and ./test: leaves $PYTHON set.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
extras="$1"

find_python() {
    for candidate in python3.13 python3.12 python3.11 python3; do
        if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "GT needs Python 3.11 or later; none was found on the PATH" >&2
    exit 1
}

PYTHON="$PWD/.venv/bin/python"
stamp=".venv/gt-$extras-$(cat pyproject.toml constraints.txt scripts/setup.sh | cksum | cut -d' ' -f1)"
if [ ! -e "$stamp" ]; then
    base="$(find_python)"
    echo "setting up .venv ($extras; a few minutes the first time)" >&2
    if ! "$base" -m venv .venv >/dev/null; then
        echo "'$base -m venv' failed: install Python's venv module (on Debian: apt-get install python3-venv)" >&2
        exit 1
    fi
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[$extras]"
    touch "$stamp"
fi
