"""Imports go down, as in the README's tree, and in no circle. Functions are short, and no two classes share a name."""

from __future__ import annotations

import ast
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "src" / "gt"
LEAVES = {"atomic", "errors", "config", "life", "regular", "waiting"}
ALLOWED = {
    "atomic": set(),
    "collector": set(),
    "errors": set(),
    "life": set(),
    "regular": set(),
    "config": {"errors"},
    "waiting": set(),
    "placement": LEAVES | {"placement"},
    "wire": LEAVES | {"wire", "placement"},
    "planning": LEAVES | {"wire", "placement", "planning"},
    "client": LEAVES | {"wire", "placement", "client"},
    "dispatcher": LEAVES | {"wire", "placement", "planning", "dispatcher"},
    "safetensors_format": {"atomic"},
    "worker": LEAVES | {"safetensors_format", "wire", "placement", "worker"},
    "tools": LEAVES | {"wire", "placement", "planning", "dispatcher", "tools"},
    "run": LEAVES | {"run"},
    "cli": LEAVES | {"collector", "dispatcher", "worker", "tools", "run", "__version__"},
    "__main__": {"cli"},
    "fakes": LEAVES | {"wire", "placement", "client", "dispatcher", "worker"},
    "facade": LEAVES | {"client", "facade", "files", "safetensors_format"},
    "files": LEAVES | {"safetensors_format", "wire", "client"},
    "debug": LEAVES | {"wire", "client"},
    "_client": LEAVES | {"placement", "client", "facade", "files", "debug", "run"},
    "__init__": {"_client", "collector"},
}
FLOORS = ["stream", "session", "calls", "kernels", "patches", "device"]
"""The client's layers, lowest first: each imports itself and those below it."""
TORCH = {"client", "worker", "facade", "files", "safetensors_format", "debug", "fakes", "_client"}
FILES = sorted(ROOT.rglob("*.py"))


def part(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def module(path: Path) -> str:
    name = ".".join(["gt", *path.relative_to(ROOT).with_suffix("").parts])
    return name.removesuffix(".__init__")


MODULES = {module(path): path for path in FILES}


def imports(tree: ast.AST) -> Iterator[tuple[ast.stmt, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node, f"{node.module}.{alias.name}") for alias in node.names)


def outside_functions(tree: ast.Module | ast.If | ast.With) -> Iterator[ast.stmt]:
    for node in tree.body:
        yield node
        if isinstance(node, ast.If | ast.With):
            yield from outside_functions(node)


def imported_modules(path: Path) -> set[str]:
    """GT's modules that a file imports, including imports for type checkers."""
    names = [name for _, name in imports(ast.parse(path.read_text()))]
    return {name if name in MODULES else name.rpartition(".")[0] for name in names} & set(MODULES)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_part_imports_only_what_it_may_know(path: Path) -> None:
    source = path.read_text()
    lines = source.splitlines()
    tree = ast.parse(source)
    top = {id(node) for node in outside_functions(tree)}
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


def floor(name: str) -> int:
    return FLOORS.index(name.split(".")[2])


def test_the_client_imports_down_its_floors() -> None:
    client = [name for name in MODULES if name.startswith("gt.client.")]
    up = [
        f"{name} imports {other}"
        for name in client
        for other in imported_modules(MODULES[name])
        if other.startswith("gt.client.") and floor(other) > floor(name)
    ]
    assert up == []


def test_no_import_goes_in_a_circle() -> None:
    graph = {name: imported_modules(path) - {name} for name, path in MODULES.items()}
    while leaves := {name for name, others in graph.items() if not others & set(graph)}:
        graph = {name: others - leaves for name, others in graph.items() if name not in leaves}
    assert graph == {}


def test_functions_are_short() -> None:
    """At most 60 lines, and nine of ten less than 20."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    nodes = [node for path in FILES for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)]
    lengths = sorted((node.end_lineno or 0) - node.lineno + 1 for node in nodes)
    assert lengths[-1] <= 60
    assert lengths[len(lengths) * 9 // 10] < 20


def test_a_class_has_its_name_to_itself() -> None:
    nodes = [node for path in FILES for node in ast.parse(path.read_text()).body]
    names = Counter(node.name for node in nodes if isinstance(node, ast.ClassDef))
    assert [name for name, times in names.items() if times > 1] == []


def test_every_module_can_be_imported_first() -> None:
    """In a process that is not a client, so that nothing is imported yet. (`gt.__main__` runs a command, and
    `gt._client` registers the device, which a process does once.)"""
    failed = [name for name in sorted(MODULES) if name not in ("gt.__main__", "gt._client") and not _imports_alone(name)]
    assert failed == []


def _imports_alone(name: str) -> bool:
    """In a forked child, since importing torch again takes a second."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    try:
        os.environ["GT_ROLE"] = "worker"
        for known in [known for known in sys.modules if known.partition(".")[0] == "gt"]:
            del sys.modules[known]
        __import__(name)
        os._exit(0)
    except BaseException as error:
        print(f"{name}: {error!r}", file=sys.stderr)
    finally:
        os._exit(1)
