#!/usr/bin/env bash
# Generates the API pages from the docstrings with pdoc (the extra `docs`), into build/api. They are not committed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh docs
# Outside a client process, `gt` has only its own modules, without torch's names; `gt._client` has what a client adds.
GT_ROLE=dispatcher "$PYTHON" -m pdoc --output-directory build/api gt gt._client "$@"
echo "build/api/index.html"
