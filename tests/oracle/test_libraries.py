"""Scripts that use heavy libraries (`./test --libraries` installs them) print the same with and without GT."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tests.conftest import Run, side_by_side
from tests.oracle.test_facade import ported

SCRIPTS = sorted((Path(__file__).parent / "libraries").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_prints_the_same_ported_and_beside_gt(script: Path, run_python: Run) -> None:
    pytest.importorskip(script.stem.partition("_")[0])
    source = script.read_text()
    ways = (ported(source), f"import gt\n{source}", source)
    remote, beside, local = side_by_side(*(partial(run_python, way) for way in ways))
    assert local.returncode == 0, local.stderr
    assert remote.stdout == local.stdout, remote.stderr
    assert beside.stdout == local.stdout, beside.stderr
