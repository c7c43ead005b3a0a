"""Who may import whom (the README's tree, enforced)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "src" / "gt"
LEAVES = {"errors", "config", "life", "regular"}
ALLOWED = {
    "errors": set(),
    "life": set(),
    "regular": set(),
    "config": {"errors"},
    "wire": LEAVES | {"wire"},
    "client": LEAVES | {"wire", "client"},
    "dispatcher": LEAVES | {"wire", "dispatcher"},
    "worker": LEAVES | {"wire", "worker"},
    "cli": LEAVES | {"dispatcher", "worker", "__version__"},
    "__main__": {"cli"},
    "fakes": LEAVES | {"wire", "client", "dispatcher", "worker"},
    "facade": LEAVES | {"client", "places", "ported", "stand_ins"},
    "ported": LEAVES | {"client", "loader", "places", "stand_ins"},
    "stand_ins": LEAVES | {"places"},
    "places": LEAVES,
    "loader": LEAVES | {"stand_ins"},
    "files": LEAVES | {"wire", "client"},
    "debug": LEAVES | {"wire", "client"},
    "_client": LEAVES | {"client", "facade", "files", "debug", ""},
    "__init__": {"_client"},
}
TORCH = {"client", "worker", "places", "ported", "stand_ins", "loader", "files", "debug", "fakes", "_client"}
FILES = sorted(ROOT.rglob("*.py"))


def part(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> list[tuple[ast.stmt, str]]:
    found: list[tuple[ast.stmt, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [(node, f"{node.module}.{alias.name}") for alias in node.names]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_part_imports_only_what_it_may_know(path: Path) -> None:
    source = path.read_text()
    lines = source.splitlines()
    tree = ast.parse(source)
    top = {id(node) for node in ast.walk(tree) if isinstance(node, ast.Module | ast.If) for node in node.body}
    for node, name in imports(tree):
        names = name.split(".")
        if names[0] == "gt":
            assert (names[1] if len(names) > 1 else "") in ALLOWED[part(path)], f"{path}:{node.lineno} imports {name}"
        if names[0] == "torch":
            assert part(path) in TORCH, f"{path}:{node.lineno}: only the client's and the worker's side know torch"
        assert names[0] not in ("pickle", "marshal", "shelve"), f"{path}:{node.lineno}"
        if id(node) not in top:
            near = "\n".join(lines[max(0, node.lineno - 2) : node.lineno])
            assert "late import:" in near, f"{path}:{node.lineno}: an import inside a function says why"


def test_every_part_has_its_row() -> None:
    assert {part(p) for p in FILES} - set(ALLOWED) == set()
