"""Every program on every layout, in a table of the largest relative differences from PyTorch on a CPU.

    python -m tests.oracle.sharding.programs [PROGRAM...] [--layout NAME]... [--trace]

Below a program: operators that were gathered because they have no rule. Exit 1 if anything differs or raises.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Iterator

from tests.oracle.sharding.programs.catalogue import PROGRAMS
from tests.oracle.sharding.programs.placements import LAYOUTS
from tests.oracle.sharding.programs.program import Program, compare


def row(program: Program, layouts: list[str], trace: bool) -> tuple[Iterator[str], Iterator[str], bool]:
    """The cells of a program's row, what is to be said below it, and whether it is as on a CPU."""
    cells, notes, right = list[str](), dict[str, None](), True
    for layout in layouts:
        try:
            found = compare(program, layout)
        except Exception as error:
            right = False
            cells.append("raised")
            notes[f"{layout}: {type(error).__name__}: {error}" + (f"\n{traceback.format_exc()}" if trace else "")] = None
            continue
        if not found.apart <= found.allowed:
            right = False
            notes[f"{layout}: value {found.worst} differs by {found.apart:.1e}, more than {found.allowed:.0e}"] = None
        cells.append(f"{found.apart:.0e}" if found.apart else "0")
        notes.update(dict.fromkeys(f"no rule: {operator}" for operator, count in found.gathered.items() if count))
    return iter(cells), iter(notes), right


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.oracle.sharding.programs")
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help=", ".join(PROGRAMS))
    parser.add_argument("--layout", action="append", choices=LAYOUTS, help="only this one; may be given several times")
    parser.add_argument("--trace", action="store_true", help="show where an error was raised")
    given = parser.parse_args()
    layouts, began, wrong = given.layout or list(LAYOUTS), time.perf_counter(), 0
    print(" " * 34, *(f"{name:>9}" for name in layouts))
    for name in given.programs or PROGRAMS:
        cells, notes, right = row(PROGRAMS[name], layouts, given.trace)
        wrong += not right
        print(f"{name:34}", *(f"{cell:>9}" for cell in cells), "" if right else "   WRONG", flush=True)
        for note in notes:
            print(f"    {note}", flush=True)
    print(f"{wrong} of {len(given.programs or PROGRAMS)} wrong, in {time.perf_counter() - began:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
