#!/usr/bin/env bash
# safetensors 0.8.0. `save_file` writes a temporary file with mode 0600 and renames it, whatever the umask and whatever mode the
# file had that it replaces. So a checkpoint in a shared folder, saved by `save_pretrained` or a trainer, cannot be read by
# colleagues or by a server of another user, and a file that could be read no longer can after it was saved once more. Files
# beside it (config.json, the tokenizer) follow the umask.
# Corrects the assumption that a saved file gets the mode that any other new file gets.
#
# Seen: umask 022: new 600, replaced 644 -> 600, another file 644
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6
cat > "$folder/program.py" <<'PYTHON'
import os
import sys

import numpy
from safetensors.numpy import save_file


def mode(name):
    return f"{os.stat(name).st_mode & 0o777:o}"


os.chdir(sys.argv[1])
os.umask(0o022)
save_file({"a": numpy.zeros(3)}, "new.safetensors")
open("there.safetensors", "w").close()
before = mode("there.safetensors")
save_file({"a": numpy.zeros(3)}, "there.safetensors")
open("config.json", "w").close()
print(f"umask 022: new {mode('new.safetensors')}, replaced {before} -> {mode('there.safetensors')}, another file {mode('config.json')}")
PYTHON
seen="$("$folder/venv/bin/python" "$folder/program.py" "$folder")"
echo "$seen"
[ "$seen" = "umask 022: new 600, replaced 644 -> 600, another file 644" ]
