"""The configuration of sharding: the grammar in YAML and in Python, files, and what is refused by which message."""

from __future__ import annotations

import os
import re
import textwrap
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import msgspec
import pytest

from gt.errors import ConfigError
from gt.placement.config_file import load, parse
from gt.placement.grammar import sharding
from gt.placement.layout import (
    FullyShard,
    InputRule,
    ParamRule,
    Replicate,
    ScopeRule,
    Shard,
    Sharding,
)
from gt.placement.mesh import Mesh

ALL = """\
mesh: {dp: 2, tp: 4}
workers: [worker0, 1, worker2, worker3, worker4, worker5, worker6, worker7]
params:
  "**.self_attn.{q,k,v}_proj.weight": {tp: shard(0)}
  "**.c_attn.weight": {tp: "shard(0, parts=3)", dp: fully_shard(1)}
  "**": {dp: fully_shard}
inputs:
  0: {dp: shard(0)}
  "*": {dp: shard(-1)}
scopes:
  "model.layers.*":
    out: {tp: replicate}
    backward: {out: {tp: shard(1)}}
  encoder: {inputs: {dp: shard(0)}}
"""


def dedent(text: str) -> str:
    return textwrap.dedent(text).lstrip("\n")


# -- what it means -------------------------------------------------------------------------------------------------------


def test_every_key_and_where_it_is_written() -> None:
    read = parse(ALL, "s.yaml")
    assert (read.axes, read.sizes, read.source) == (("dp", "tp"), (2, 4), "s.yaml")
    assert (read.mesh, read.workers_needed) == (Mesh(("dp", "tp"), (2, 4)), 8)
    assert read.described == "{dp: 2, tp: 4}"
    assert read.workers[:3] == ("worker0", 1, "worker2")
    assert [(rule.pattern, rule.origin) for rule in read.params] == [
        ("**.self_attn.{q,k,v}_proj.weight", "s.yaml:4"),
        ("**.c_attn.weight", "s.yaml:5"),
        ("**", "s.yaml:6"),
    ]
    assert read.params[1].placements == {"tp": Shard(0, parts=3), "dp": FullyShard(1)}
    assert [(rule.pattern, rule.placements, rule.origin) for rule in read.inputs] == [
        ("0", {"dp": Shard(0)}, "s.yaml:8"),
        ("*", {"dp": Shard(-1)}, "s.yaml:9"),
    ]
    assert read.scopes == (
        ScopeRule("model.layers.*", out={"tp": Replicate()}, backward={"tp": Shard(1)}),
        ScopeRule("encoder", inputs={"dp": Shard(0)}),
    )
    assert [rule.origin for rule in read.scopes] == ["s.yaml:11", "s.yaml:14"]


def test_python_objects_equal_the_yaml() -> None:
    written = sharding(
        mesh={"dp": 2, "tp": 4},
        workers=["worker0", 1, *(f"worker{i}" for i in range(2, 8))],
        params={
            "**.self_attn.{q,k,v}_proj.weight": {"tp": Shard(0)},
            "**.c_attn.weight": {"tp": "shard(0, parts=3)", "dp": FullyShard(1)},
            "**": {"dp": "fully_shard"},
        },
        inputs={0: {"dp": Shard(0)}, "*": {"dp": "shard(-1)"}},
        scopes={
            "model.layers.*": {"out": {"tp": Replicate()}, "backward": {"out": {"tp": Shard(1)}}},
            "encoder": {"inputs": {"dp": "shard(0)"}},
        },
    )
    assert written == parse(ALL, "s.yaml")
    assert written.params[0].origin == "gt.sharding"
    assert sharding(mesh={"dp": 2}, source="train.py:3").source == "train.py:3"
    assert sharding(mesh={"dp": 2}) == parse("mesh: {dp: 2}", "s.yaml")
    assert sharding(mesh={"dp": 2}) != sharding(mesh={"dp": 4})
    assert sharding(mesh={"dp": 2, "tp": 4}) != sharding(mesh={"tp": 4, "dp": 2})
    assert ParamRule("*", {"dp": Shard(0)}) != InputRule("*", {"dp": Shard(0)})


def test_the_first_rule_that_matches_wins() -> None:
    read = parse(ALL, "s.yaml")
    assert read.param("model.layers.0.self_attn.q_proj.weight") is read.params[0]
    assert read.param("model.norm.weight") is read.params[2]
    assert read.input("ids", "0") is read.inputs[0]
    assert read.input("ids", "1") is read.inputs[1]
    assert read.scope("model.layers.3") is read.scopes[0]
    assert read.scope("model/layers/3") is read.scopes[0]
    assert read.scope("decoder") is None
    nothing = sharding(mesh={"dp": 2})
    assert (nothing.param("weight"), nothing.input("ids", "0"), nothing.scope("encoder")) == (None, None, None)


def test_what_a_rule_does_not_name() -> None:
    read = parse(ALL, "s.yaml")
    assert (read.params[2].on("dp"), read.params[2].on("tp")) == (FullyShard(), Replicate())
    layers, encoder = read.scopes
    assert (layers.backward_out, encoder.backward_out) == ({"tp": Shard(1)}, {})
    like_forward = sharding(mesh={"dp": 2}, scopes={"a": {"out": {"dp": "replicate"}}}).scopes[0]
    assert like_forward.backward_out == {"dp": Replicate()}
    left_alone = sharding(mesh={"dp": 2}, scopes={"a": {"out": {"dp": "replicate"}, "backward": {"out": {}}}}).scopes[0]
    assert left_alone.backward_out == {}


def test_yaml_may_be_written_in_its_other_ways() -> None:
    read = parse(
        dedent("""
        %YAML 1.1
        ---
        params:
            "a": &row {dp: 'shard( 0 )'}
            ? b
            : *row
            'c':
                dp: >-
                    shard(dim=0)
        mesh: !!map {"dp": 2}
        """),
        "s.yaml",
    )
    assert read == sharding(mesh={"dp": 2}, params={name: {"dp": Shard(0)} for name in "abc"})


def test_it_travels() -> None:
    read = parse(ALL, "s.yaml")
    there = msgspec.msgpack.decode(msgspec.msgpack.encode(read), type=Sharding)
    assert there == read
    assert there.source == read.source
    for section in ("params", "inputs", "scopes"):
        assert [rule.origin for rule in getattr(there, section)] == [rule.origin for rule in getattr(read, section)]


GOOD: dict[str, object] = {"mesh": {"axes": ["dp"], "sizes": [2]}, "params": [{"pattern": "**", "placements": {}}]}
SHARD = {"type": "shard", "dim": 0}


@pytest.mark.parametrize(
    "change",
    [
        {"mesh": {"axes": [], "sizes": []}},
        {"mesh": {"axes": ["dp", "dp"], "sizes": [2, 2]}},
        {"mesh": {"axes": ["dp"], "sizes": [2, 2]}},
        {"mesh": {"axes": ["dp"], "sizes": [0]}},
        {"mesh": {"axes": ["dp"], "sizes": [65_537]}},
        {"mesh": {"axes": [f"a{i}" for i in range(17)], "sizes": [1] * 17}},
        {"workers": ["worker0"]},
        {"params": [{"pattern": "a..b", "placements": {}}]},
        {"params": [{"pattern": "**", "placements": {"tp": SHARD}}]},
        {"params": [{"pattern": "**", "placements": {"dp": {**SHARD, "parts": 0}}}]},
        {"params": [{"pattern": "**", "placements": {"dp": {**SHARD, "dim": 64}}}]},
        {"params": [{"pattern": "**", "placements": {"dp": {"type": "partial"}}}]},
        {"inputs": [{"pattern": "{", "placements": {}}]},
        {"scopes": [{"pattern": "a", "backward": {"tp": SHARD}}]},
        {"scopes": [{"pattern": "", "out": {}}]},
    ],
)
def test_a_peer_cannot_send_what_cannot_be_written(change: dict[str, object]) -> None:
    assert msgspec.convert(GOOD, Sharding).workers_needed == 2
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({**GOOD, **change}, Sharding)


def test_workers_by_name_and_by_number() -> None:
    chosen = sharding(mesh={"dp": 2}, workers=["right", 0])
    assert chosen.worker_names(["left", "right"]) == ("right", "left")
    message = "gt.sharding: workers: the service has no worker 'right'; legal: rigth; did you mean rigth?"
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        chosen.worker_names(["rigth"])
    with pytest.raises(ConfigError, match=r"^s\.yaml:3: workers: the service has no worker 'right'"):
        parse("mesh: {dp: 2}\n\nworkers: [0, right]", "s.yaml").worker_names(["left"])
    with pytest.raises(ConfigError, match=r"the service has no worker 0; legal: none$"):
        sharding(mesh={"dp": 1}, workers=[0]).worker_names([])


def test_the_page_says_the_same_in_yaml_and_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "sharding.md").read_text()
    (python,) = re.findall(r"```python\n(.*?)```", page, re.S)
    said: list[Sharding] = []
    monkeypatch.setattr("gt.sharding", lambda **sections: said.append(sharding(**sections)))
    exec(python)
    assert said == [parse(re.findall(r"```yaml\n(.*?)```", page, re.S)[0], "sharding.md")]


# -- files ---------------------------------------------------------------------------------------------------------------


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + ALL.replace("\n", "\r\n").encode())
    read = load(path)
    assert read == parse(ALL, "s.yaml")
    assert (read.source, read.params[0].origin) == (str(path), f"{path}:4")
    assert load(os.fsencode(path)) == read  # type: ignore[arg-type]


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    legal = "; legal: a YAML file that says at least mesh: {dp: 2}"
    os.mkfifo("pipe")
    for name, content in {"tp2.yaml": b"\n", "latin.yaml": b"mesh: {dp: 2}\n# \xe9\n", "large.yaml": b"#" * 300_000}.items():
        Path(name).write_bytes(content)
    cases = {
        "tp.yaml": f"tp.yaml: No such file or directory{legal}; did you mean tp2.yaml?",
        "nowhere/x.yaml": f"nowhere/x.yaml: No such file or directory{legal}",
        ".": f".: Is a directory{legal}",
        "pipe": f"pipe: a pipe, not a regular file{legal}",
        "a\0b": f"a\\x00b: embedded null byte{legal}",
        "tp2.yaml": f"tp2.yaml:1: it says nothing{legal}",
        "latin.yaml": "latin.yaml:2: got the byte 0xe9; legal: text in UTF-8",
        "large.yaml": "large.yaml: the file is too large; legal: at most 262,144 bytes",
    }
    for name, message in cases.items():
        with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
            load(name)


@hypothesis.settings(max_examples=300, deadline=None, derandomize=True, database=None)
@hypothesis.given(st.text("ab:{}[]\"'-*&!<>|%?, \n\t0#\\", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    for whole in (text, f"mesh: {{dp: 2}}\nparams: {text}"):
        try:
            parse(whole, "s.yaml")
        except ConfigError as error:
            said = str(error)
        else:
            continue
        assert said.startswith("s.yaml")
        assert said.isprintable()
