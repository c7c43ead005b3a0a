"""The README's example runs, and says what it says."""

from __future__ import annotations

import re
from pathlib import Path

from tests.conftest import Run

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


def test_the_example_prints_the_same_under_gt_and_under_torch(run_python: Run) -> None:
    (source,) = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    remote = run_python(source)
    local = run_python(source.replace("import gt as torch", "import torch").replace("from gt", "from torch"))
    assert local.returncode == 0, local.stderr
    assert remote.stdout == local.stdout, remote.stderr


def test_every_file_in_the_tree_exists() -> None:
    tree = TEXT.partition("## Tree")[2]
    for name in re.findall(r"[\w./]+\.(?:py|sh|txt)\b", tree):
        assert list(ROOT.rglob(Path(name).name)), name


def test_every_command_of_the_table_names_tests_that_exist() -> None:
    for path in re.findall(r"tests/[\w/]+(?:\.py)?", TEXT):
        assert (ROOT / path).exists(), path


def test_every_file_of_the_program_has_its_phrase() -> None:
    tree = TEXT.partition("## Tree")[2]
    for folder in ("src", "examples", "benchmarks"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".sh") and path.read_text():
                assert path.name in tree, path
