#!/usr/bin/env bash
# The API pages, made from the docstrings by pdoc (the extra `docs`), into build/api. Nothing of them is committed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh docs
# In a process that is no client, `gt` is its own modules alone, without torch's names; `gt._client` is what it adds in a client.
GT_ROLE=dispatcher "$PYTHON" -m pdoc --output-directory build/api gt gt._client "$@"
echo "build/api/index.html"
