"""The tables hold all patches, and each row names an existing test."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import patches

SOURCES = patches.ROOT / "src" / "gt"
ELSEWHERE = {
    "_client.py": "a name of GT's own package, once it was looked up",
    "client/kernels/composites.py": "the logger of fake tensors, while they are used",
    "client/stream/operands.py": "an attribute of GT's own, on the class so that every tensor has it",
    "client/patches/patch.py": "applies the rows",
    "client/patches/printing.py": "for as long as a tensor is printed",
    "client/patches/saved.py": "in a module that is imported with the first exported program",
    "client/calls/uncompiled.py": "marks of functions, before the first inference",
    "facade/mirror.py": "what the program sets",
    "facade/stand_ins.py": "`__subclasses__` of a class that gets a stand-in",
}


@pytest.mark.parametrize("patch", patches.PATCHES, ids=patches.name)
def test_a_row_names_what_there_is_and_a_test(patch: patches.Patch) -> None:
    assert all(hasattr(owner, name) for owner, name in patch.targets())
    file, _, test = patch.test.partition("::")
    functions = {
        node.name for node in ast.parse((patches.ROOT / file).read_text()).body if isinstance(node, ast.FunctionDef)
    }
    assert test.partition("[")[0] in functions


def test_no_name_is_patched_twice() -> None:
    """Except `compile`, which checks the module's device first, and then whether the caller is a ported file; `to`: "cpu"
    means the device in a ported file, and in a library moves the module away, which is told; and what `gt explain` observes.
    """
    targets = [f"{owner}.{n}" for p in patches.PATCHES for owner in p.owners.split() for n in p.names.split()]
    twice = {"torch.nn.Module.compile", "torch.nn.Module.to", "torch.nn.Module._call_impl"}
    entering = {"torch.autograd.graph._engine_run_backward", "torch.autograd._engine_run_backward"}
    assert {t for t in targets if targets.count(t) > 1} == twice | entering


def test_no_other_file_changes_torch() -> None:
    found = {str(path.relative_to(SOURCES)) for path in SOURCES.rglob("*.py") if any(_changes(path))}
    assert found == set(ELSEWHERE)


def _changes(path: Path) -> Iterator[ast.AST]:
    """Assignments to attributes of names that a file imports from torch, and every `setattr`."""
    tree = ast.parse(path.read_text())
    names = {"torch"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] == "torch":
            names |= {alias.asname or alias.name for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "setattr":
            yield node
        targets = node.targets if isinstance(node, ast.Assign) else []
        yield from (t for t in targets if isinstance(t, ast.Attribute) and _root(t) in names)


def _root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def test_the_page_is_the_tables() -> None:
    assert (patches.ROOT / "docs" / "patches.md").read_text() == patches.page()
