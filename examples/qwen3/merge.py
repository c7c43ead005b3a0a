"""Put a LoRA adapter, this example's or PEFT's, into the weights of its base: a folder that `transformers` loads.

python merge.py --model FOLDER_OR_NAME --adapter FOLDER --out FOLDER [--revision REVISION]
"""

from __future__ import annotations

import os

from problems import UserError, read_json

if __name__ == "__main__" and os.environ.get("USE_PYTORCH") != "1":
    import gt  # noqa: F401  early, as in load_weights.py

# isort: split
import argparse
import math
import sys
from pathlib import Path

from checkpoint_files import write_folder, write_output
from folders import OUTPUT, check_output, identity, resolve, shown
from load_weights import entries, load
from lora import CONFIG, load_adapter, merge

BYTES = {"F32": 4, "BF16": 2, "F16": 2}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="the base: a folder, or a name on the hub")
    parser.add_argument("--revision", help="of the base on the hub")
    parser.add_argument("--adapter", type=Path, required=True, help=f"a folder that holds {CONFIG}")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    source = resolve(given.model, given.revision)
    if not (given.adapter / CONFIG).is_file():
        raise UserError(f"{given.adapter}: no {CONFIG} in it (--adapter)")
    made_of = {"model": identity(given.model, given.revision), "adapter": identity(str(given.adapter), None)}
    size = sum(BYTES.get(entry.dtype, 4) * math.prod(entry.shape) for entry in entries(source).values())
    check_output(given.out, OUTPUT, made_of, size)
    base = str(read_json(given.adapter / CONFIG).get("base_model_name_or_path") or given.model)
    if Path(base).name != Path(given.model).resolve().name:
        print(f"Warning: the adapter was trained on {base}, and is merged into {given.model}", file=sys.stderr)
    model = load(source)
    lora = load_adapter(model, given.adapter)
    merge(model)
    write_output(given.out, made_of, lambda folder, save: write_folder(model, source, folder, save))
    print(f"Merged an adapter of rank {lora.rank} on {', '.join(lora.targets)}; saved {shown(given.out)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
