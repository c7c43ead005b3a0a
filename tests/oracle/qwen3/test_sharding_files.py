"""The example's configurations of sharding: they load, and no pattern is for nothing."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import pytest
import torch

from gt.placement import grammar
from gt.placement.config_file import load, parse
from tests.oracle.qwen3.conftest import EXAMPLE

FILES = sorted([EXAMPLE / "sharding.yaml", *EXAMPLE.glob("sharding/*.yaml")])
WORKERS = {
    "dp2": 2,
    "dp2xtp2": 4,
    "dp4": 4,
    "fsdp2": 2,
    "fsdp2xtp2": 4,
    "fsdp4": 4,
    "sharding": 4,
    "sp2": 2,
    "tp2": 2,
    "vocabulary_tp2": 2,
}


@pytest.fixture(scope="module", params=["qwen3", "qwen2"])
def model(request: pytest.FixtureRequest, scripts: ModuleType) -> torch.nn.Module:
    """The tiny model of a kind, without its values."""
    qwen2 = request.param == "qwen2"
    known = {field.name for field in fields(scripts.config.Config)}
    sizes = {name: size for name, size in scripts.make_tiny.SIZES.items() if name in known}
    config = scripts.config.Config(**sizes, tie_word_embeddings=True, qkv_bias=qwen2, qk_norm=not qwen2)
    with torch.device("meta"):
        return scripts.model.Qwen3(config)


def test_there_is_a_file_per_layout() -> None:
    assert {path.stem: load(path).workers_needed for path in FILES} == WORKERS


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_pattern_matches_something(path: Path, model: torch.nn.Module) -> None:
    read = load(path)
    used = {rule.pattern for name in model.state_dict() if (rule := read.param(name))}
    assert used == {rule.pattern for rule in read.params}
    modules = [name for name, _ in model.named_modules()]
    scopes = {rule.pattern for name in modules if (rule := read.scope(name))}
    assert scopes == {rule.pattern for rule in read.scopes}
    for rule in read.inputs:
        assert read.input("ids", "0") is rule


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_is_sharded_divides(path: Path, model: torch.nn.Module) -> None:
    read = load(path)
    for name, parameter in model.state_dict().items():
        rule = read.param(name)
        assert rule, name
        for axis, placement in rule.placements.items():
            dim = getattr(placement, "dim", None)
            assert dim is None or parameter.shape[dim] % read.workers_needed == 0, (name, axis)


def test_tied_parameters_have_one_place(model: torch.nn.Module) -> None:
    for path in FILES:
        read = load(path)
        one, other = (read.param(name) for name in ("model.embed_tokens.weight", "lm_head.weight"))
        assert one is other, path


def test_the_page_shows_the_files() -> None:
    """Every block of YAML on docs/sharding.md can be loaded; those of layouts say what a file says."""
    page = (EXAMPLE.parents[1] / "docs" / "sharding.md").read_text()
    first, *layouts = [parse(text, "sharding.md") for text in re.findall(r"```yaml\n(.*?)```", page, re.S)]
    (python,) = re.findall(r"```python\n(.*?)```", page, re.S)
    imports, call = python.split("\n\n", 1)
    names: dict[str, object] = {}
    exec(imports, names)
    names["gt"] = grammar  # `gt.sharding` without setting what this process uses
    assert eval(call, names) == first
    files = [
        load(EXAMPLE / "sharding" / f"{name}.yaml") for name in ("dp2", "fsdp2", "tp2", "vocabulary_tp2", "sp2", "fsdp2xtp2")
    ]
    assert layouts == files
