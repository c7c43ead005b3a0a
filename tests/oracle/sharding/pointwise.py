"""The overloads that PyTorch tags as pointwise.

python -m tests.oracle.sharding.pointwise     # writes src/gt/sharding/rules/pointwise_names.py anew
"""

from __future__ import annotations

import textwrap
from pathlib import Path

import torch

from gt.planning.rules import pointwise_names

FILE = Path(pointwise_names.__file__)
HEAD = '''"""What PyTorch tags as pointwise; generated: `python -m tests.oracle.sharding.pointwise` writes it anew."""

from __future__ import annotations

TORCH = "{version}"
"""The version whose tags these are."""
_NAMES = """
{names}
"""
TAGGED = frozenset(_NAMES.split())
"""Overloads, without `aten::`: each result's element depends on the operands' elements at its place alone."""
'''


def tagged() -> set[str]:
    """Overloads tagged as pointwise that make tensors and draw no random numbers."""
    found = set()
    for name in torch._C._dispatch_get_all_op_names():
        base, _, overload = name.removeprefix("aten::").partition(".")
        op = getattr(getattr(torch.ops.aten, base, None), overload or "default", None) if name.startswith("aten::") else None
        if op is None or torch.Tag.pointwise not in op.tags or torch.Tag.nondeterministic_seeded in op.tags:
            continue
        if all(str(r.type) == "Tensor" for r in op._schema.returns):
            found.add(name.removeprefix("aten::"))
    return found


def version() -> str:
    return torch.__version__.partition("+")[0]


def text() -> str:
    indent = " " * 4
    names = textwrap.fill(" ".join(sorted(tagged())), 120, initial_indent=indent, subsequent_indent=indent)
    return HEAD.format(version=version(), names=names)


if __name__ == "__main__":
    FILE.write_text(text())
