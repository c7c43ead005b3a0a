"""The pages of `docs/`: the files they name exist, and their snippets run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Run, side_by_side

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PORTING = (DOCS / "porting.md").read_text()
LOCAL, FACADE, DEVICE, LOADING, FETCHING, DEBUGGING = re.findall(r"```python\n(.*?)```", PORTING, re.S)
OFFLINE = {"HF_HUB_OFFLINE": "1"}


def exists(name: str) -> bool:
    return any((folder / name).exists() for folder in (ROOT / "src" / "gt", ROOT))


@pytest.mark.parametrize("page", ["architecture.md", "glossary.md", "porting.md"])
def test_every_file_that_a_page_names_exists(page: str) -> None:
    text = re.sub(r"```.*?```", "", (DOCS / page).read_text(), flags=re.S)
    named = set(re.findall(r"`([\w/]+/(?:\w+\.\w+)?)`", text))
    assert [name for name in sorted(named) if not exists(name)] == []
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert [link for link in links if not (DOCS / link).exists()] == []


def test_every_file_of_the_table_exists() -> None:
    """Each row of "To change this, open that" names at least one file, and all of them exist."""
    table = (DOCS / "architecture.md").read_text().partition("## To change this")[2]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 20
    for row in rows:
        named = re.findall(r"`([\w/]+(?:/|\.\w+))`", row)
        assert named, row
        assert [name for name in named if not exists(name)] == [], row


def test_the_picture_names_files_that_exist() -> None:
    picture = (DOCS / "instruction.svg").read_text()
    package = ROOT / "src" / "gt"
    for name in re.findall(r'class="file"[^>]*>([^<]+)<', picture):
        assert any((package / part / name).exists() for part in ("", "client", "dispatcher")), name


def test_a_ported_script_prints_what_the_local_one_prints(run_python: Run) -> None:
    local, facade, device = side_by_side(
        *(lambda s=s: run_python(s, timeout_s=240, **OFFLINE) for s in (LOCAL, FACADE, DEVICE))
    )  # type: ignore[misc]
    assert local.returncode == 0, local.stderr
    assert facade.stdout == local.stdout, facade.stderr
    assert device.stdout == local.stdout, device.stderr


def test_weights_are_loaded_by_the_worker(run_python: Run) -> None:
    done = run_python(LOADING, timeout_s=240, **OFFLINE)
    assert done.stdout == "remote:0\n", done.stderr


def test_losses_are_fetched_now_and_then(run_python: Run) -> None:
    done = run_python(FETCHING)
    assert done.stdout == "36.0\n116.0\n", done.stderr


def test_an_error_names_the_line_that_issued_it(run_python: Run) -> None:
    done = run_python(DEBUGGING)
    line, ops, size, stats = done.stdout.splitlines()
    assert DEBUGGING.splitlines()[int(line) - 1].strip().startswith("rows ="), done.stderr
    assert "Fetch" in ops
    assert int(size) == 4 * 2 * 4
    assert "errors" in stats


def test_the_log_is_filtered(tmp_path: Path) -> None:
    (commands,) = re.findall(r"```bash\n(.*?)```", PORTING, re.S)
    (tmp_path / "script.py").write_text("import gt as torch\nprint((torch.ones(2, 2) @ torch.ones(2, 2)).sum().item())\n")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-ec", commands], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert first == "8.0"
    assert ["define" in line for line in rest] == [True, False]
    assert all("aten::mm" in line for line in rest)
