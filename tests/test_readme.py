"""The README's example runs and prints the same under GT and torch; its file tree is complete."""

from __future__ import annotations

import re
from pathlib import Path

from tests.conftest import Run, side_by_side

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


def test_the_example_prints_the_same_under_gt_and_under_torch(run_python: Run) -> None:
    (source,) = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    by_command = "import os, sys\nos.execv(sys.executable, [sys.executable, '-m', 'gt', 'run', '-c', sys.argv[1]])"
    ported = source.replace("import torch", "import gt as torch").replace("from torch", "from gt")
    ran, remote, local = side_by_side(
        lambda: run_python(by_command, source), lambda: run_python(ported), lambda: run_python(source)
    )
    assert local.returncode == 0, local.stderr
    assert (ran.stdout, remote.stdout) == (local.stdout, local.stdout), ran.stderr + remote.stderr


def test_every_file_in_the_tree_exists() -> None:
    tree = TEXT.partition("## Tree")[2]
    folders = (folder for folder in ROOT.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    there = {path.name for folder in folders for path in folder.rglob("*")} | {path.name for path in ROOT.iterdir()}
    assert {Path(name).name for name in re.findall(r"[\w./]+\.(?:py|sh|txt)\b", tree)} <= there


def test_every_command_of_the_table_names_tests_that_exist() -> None:
    for path in re.findall(r"tests/[\w/]+(?:\.py)?", TEXT):
        assert (ROOT / path).exists(), path


def rows(tree: str) -> set[Path]:
    """The files and folders that have their own line; indentation gives their folder."""
    folders: list[tuple[int, Path]] = []
    found: set[Path] = set()
    for spaces, name in re.findall(r"^( +)([\w./]+)(?:  |$)", tree, re.M):
        folders = [(depth, folder) for depth, folder in folders if depth < len(spaces)]
        path = (folders[-1][1] if folders else ROOT) / name
        if name.endswith("/"):
            folders.append((len(spaces), path))
        found.add(path)
    return found


def test_every_file_of_the_program_has_its_phrase() -> None:
    listed = rows(TEXT.partition("## Tree")[2])
    for folder in ("src", "examples"):
        files = {
            p for p in (ROOT / folder).rglob("*") if p.suffix in (".py", ".sh") and p.read_text() and "runs" not in p.parts
        }
        packages = {p for p in files if p.name == "__init__.py" and p.parent.name != "gt"}  # their folder's line is theirs
        named = files - packages | {p.parent for p in files}
        assert named == {path for path in listed if path.is_relative_to(ROOT / folder)}
    for path in (ROOT / "benchmarks").rglob("*.py"):
        assert path.name in TEXT or not path.read_text(), path
