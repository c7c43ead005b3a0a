"""The configuration of sharding: patterns, the grammar in YAML and in Python, and what is refused by which message."""

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
from gt.placement import placement_text
from gt.placement.config_file import MOST_BYTES, MOST_VALUES, load, parse
from gt.placement.grammar import DEEPEST, sharding
from gt.placement.layout import (
    MOST_RULES,
    FullyShard,
    InputRule,
    ParamRule,
    Placement,
    Replicate,
    ScopeRule,
    Shard,
    Sharding,
)
from gt.placement.mesh import Mesh
from gt.placement.pattern import Pattern

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
PLACEMENTS = "replicate, shard(DIM), shard(DIM, parts=N), fully_shard, fully_shard(DIM)"
KEYS = "mesh, workers, params, inputs, scopes"


def dedent(text: str) -> str:
    return textwrap.dedent(text).lstrip("\n")


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as raised:
        parse(text, "s.yaml")
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 500
    return str(raised.value)


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
    with pytest.raises(ConfigError, match=r"the service has no worker 0; legal: none$"):
        sharding(mesh={"dp": 1}, workers=[0]).worker_names([])


# -- placements as text --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "placement"),
    [
        ("replicate", Replicate()),
        ("shard(0)", Shard(0)),
        ("shard(-1)", Shard(-1)),
        ("shard(0, parts=3)", Shard(0, 3)),
        ("fully_shard", FullyShard()),
        ("fully_shard(1)", FullyShard(1)),
    ],
)
def test_a_placement_and_its_text(text: str, placement: Placement) -> None:
    assert placement_text.read(text) == placement
    assert str(placement) == text


@pytest.mark.parametrize("text", ["shard(dim=0,parts=3)", " shard (0, 3) ", "shard( parts = 3 , dim = 0 )"])
def test_other_ways_to_write_a_placement(text: str) -> None:
    assert placement_text.read(text) == Shard(0, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shrad(0)", f"unknown placement 'shrad(0)'; legal: {PLACEMENTS}; did you mean shard?"),
        ("Replicate", f"unknown placement 'Replicate'; legal: {PLACEMENTS}; did you mean replicate?"),
        ("fully-shard", f"unknown placement 'fully-shard'; legal: {PLACEMENTS}; did you mean fully_shard?"),
        ("xyz", f"unknown placement 'xyz'; legal: {PLACEMENTS}"),
        ("", f"unknown placement ''; legal: {PLACEMENTS}"),
        ("shard(0)(1)", f"unknown placement 'shard(0)(1)'; legal: {PLACEMENTS}; did you mean shard?"),
        ("shard(0", "unknown placement 'shard(0'; quote what has a comma inside { }: \"shard(0, parts=3)\""),
        ("shard", f"'shard' lacks the dimension, dim; legal: {PLACEMENTS}"),
        ("shard()", f"'shard()' lacks the dimension, dim; legal: {PLACEMENTS}"),
        ("shard(parts=3)", f"'shard(parts=3)' lacks the dimension, dim; legal: {PLACEMENTS}"),
        ("shard(x)", "dim in 'shard(x)' is 'x'; legal: an integer from -64 to 63"),
        ("shard(0.5)", "dim in 'shard(0.5)' is '0.5'; legal: an integer from -64 to 63"),
        ("shard(64)", "dim in 'shard(64)' is '64'; legal: an integer from -64 to 63"),
        ("shard(0,)", "parts in 'shard(0,)' is ''; legal: an integer from 1 to 65,536"),
        ("shard(0, parts=0)", "parts in 'shard(0, parts=0)' is '0'; legal: an integer from 1 to 65,536"),
        ("shard(0, part=3)", f"'shard(0, part=3)' has an unknown argument 'part'; legal: {PLACEMENTS}; did you mean parts?"),
        ("shard(0, dim=1)", f"'shard(0, dim=1)' gives dim twice; legal: {PLACEMENTS}"),
        ("shard(0, 3, 1)", f"'shard(0, 3, 1)' has too many arguments; legal: {PLACEMENTS}"),
        ("replicate(0)", f"'replicate(0)' has too many arguments; legal: {PLACEMENTS}"),
    ],
)
def test_a_text_that_is_no_placement(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        placement_text.read(text)
    where = "s.yaml:2: params '**', axis 'dp': "
    assert refusal(f"mesh: {{dp: 2}}\nparams: {{'**': {{dp: {msgspec.json.encode(text).decode()}}}}}") == where + message


# -- what is refused -----------------------------------------------------------------------------------------------------

RULE = "legal: a mapping, such as {dp: replicate}"
REFUSED = {
    # the whole
    "": "s.yaml:1: it says nothing; legal: a YAML file that says at least mesh: {dp: 2}",
    "# only a comment\n": "s.yaml:1: it says nothing; legal: a YAML file that says at least mesh: {dp: 2}",
    "- mesh": "s.yaml:1: got a list; legal: a mapping, such as mesh: {dp: 2}",
    "dp2": "s.yaml:1: got 'dp2'; legal: a mapping, such as mesh: {dp: 2}",
    "{}": "s.yaml:1: mesh: missing; legal: the axes over the workers, such as mesh: {dp: 2}",
    "\nmesh: {dp: 2}\nparms: {}": f"s.yaml:3: 'parms': unknown key; legal: {KEYS}; did you mean params?",
    "mesh: {dp: 2}\n? [a]\n: 1": "s.yaml:2: got a list as a key; legal: text, such as mesh: {dp: 2}; "
    "quotes make text of anything",
    "mesh: {dp: 2}\nmesh: {dp: 2}": "s.yaml:2: 'mesh' is there twice, first at s.yaml:1; legal: once",
    "stages: 2": f"s.yaml:1: stages: not supported yet; legal: {KEYS}",
    "pipeline: {}": f"s.yaml:1: pipeline: not supported yet; legal: {KEYS}",
    "auto: true": f"s.yaml:1: auto: not supported yet; legal: {KEYS}",
    "machines: []": f"s.yaml:1: machines: not supported yet; legal: {KEYS}",
    # the mesh
    "mesh:": "s.yaml:1: mesh: got nothing; legal: a mapping, such as {dp: 2}",
    "mesh: [dp, tp]": "s.yaml:1: mesh: got a list; legal: a mapping, such as {dp: 2}",
    "mesh: {}": "s.yaml:1: mesh: got 0 axes; legal: 1 to 16, such as {dp: 2}",
    "mesh:\n  dp: 2\n  dp: 3": "s.yaml:3: mesh: 'dp' is there twice, first at s.yaml:2; legal: once",
    "mesh: {2: dp}": "s.yaml:1: mesh: got the number 2 as a key; legal: text, such as {dp: 2}; quotes make text of anything",
    "mesh: {on: 2}": "s.yaml:1: mesh: got the boolean on as a key; "
    "legal: text, such as {dp: 2}; quotes make text of anything",
    "mesh: {d p: 2}": "s.yaml:1: mesh: got the axis 'd p'; legal: at most 32 letters, digits and _, no digit first",
    "mesh: {dp: 0}": "s.yaml:1: mesh, axis 'dp': got the number 0; legal: an integer from 1 to 65,536",
    "mesh: {dp: -2}": "s.yaml:1: mesh, axis 'dp': got the number -2; legal: an integer from 1 to 65,536",
    "mesh: {dp: true}": "s.yaml:1: mesh, axis 'dp': got the boolean true; legal: an integer from 1 to 65,536",
    "mesh: {dp: 2.0}": "s.yaml:1: mesh, axis 'dp': got the number 2.0; legal: an integer from 1 to 65,536",
    "mesh: {dp: '2'}": "s.yaml:1: mesh, axis 'dp': got '2'; legal: an integer from 1 to 65,536",
    "mesh: {dp: 010}": "s.yaml:1: mesh, axis 'dp': got the number 010; legal: an integer from 1 to 65,536",
    "mesh: {dp: 2026-01-01}": "s.yaml:1: mesh, axis 'dp': got the date 2026-01-01; legal: an integer from 1 to 65,536",
    "mesh: {dp: 65537}": "s.yaml:1: mesh, axis 'dp': got the number 65537; legal: an integer from 1 to 65,536",
    "mesh: {dp: " + "9" * 5000 + "}": f"s.yaml:1: mesh, axis 'dp': got the number {'9' * 60}...; "
    "legal: an integer from 1 to 65,536",
    "mesh: {dp: 512, tp: 256}": "s.yaml:1: mesh: got 131,072 workers in all; legal: at most 65,536",
    "mesh: {" + ", ".join(f"a{i}: 1" for i in range(17)) + "}": "s.yaml:1: mesh: got 17 axes; "
    "legal: 1 to 16, such as {dp: 2}",
    # the workers
    "mesh: {dp: 2}\nworkers: worker0": "s.yaml:2: workers: got 'worker0'; "
    "legal: a list of names or numbers, such as [worker0, worker1]",
    "mesh: {dp: 2}\nworkers: {}": "s.yaml:2: workers: got a mapping; "
    "legal: a list of names or numbers, such as [worker0, worker1]",
    "mesh: {dp: 2}\nworkers: [0, -1]": "s.yaml:2: workers: got the number -1; legal: a worker's name, or its number from 0",
    "mesh: {dp: 2}\nworkers: [0, '']": "s.yaml:2: workers: got ''; legal: a worker's name, or its number from 0",
    "mesh: {dp: 2}\nworkers: [0, yes]": "s.yaml:2: workers: got the boolean yes; "
    "legal: a worker's name, or its number from 0",
    "mesh: {dp: 2}\nworkers:\n- 0\n- 0": "s.yaml:4: workers: the number 0 is there twice, first at s.yaml:3; legal: once",
    "mesh: {dp: 2}\nworkers: [a]": "s.yaml:2: workers: got 1; legal: 2, as many as the mesh has",
    # the rules
    "mesh: {dp: 2}\nparams:": 's.yaml:2: params: got nothing; legal: a mapping, such as {"**": {dp: replicate}}',
    "mesh: {dp: 2}\nparams: [a]": 's.yaml:2: params: got a list; legal: a mapping, such as {"**": {dp: replicate}}',
    "mesh: {dp: 2}\nparams: {0: {}}": "s.yaml:2: params: got the number 0 as a key; "
    'legal: text, such as {"**": {dp: replicate}}; quotes make text of anything',
    "mesh: {dp: 2}\nparams: {a: replicate}": f"s.yaml:2: params 'a': got 'replicate'; {RULE}",
    "mesh: {dp: 2}\nparams: {a: }": f"s.yaml:2: params 'a': got nothing; {RULE}",
    "mesh: {dp: 2}\nparams:\n  a: {}\n  'a': {}": "s.yaml:4: params: 'a' is there twice, first at s.yaml:3; legal: once",
    "mesh: {dp: 2}\nparams: {a: {dp: replicate, dp: replicate}}": "s.yaml:2: params 'a': 'dp' is there twice, "
    "first at s.yaml:2; legal: once",
    "params:\n  a: {to: shard(0)}\nmesh: {dp: 2, tp: 2}": "s.yaml:2: params 'a': unknown axis 'to'; legal: dp, tp; "
    "did you mean tp?",
    "mesh: {dp: 2}\nparams: {a: {dp: 0}}": f"s.yaml:2: params 'a', axis 'dp': got the number 0; legal: {PLACEMENTS}",
    "mesh: {dp: 2}\nparams: {a: {dp: }}": f"s.yaml:2: params 'a', axis 'dp': got nothing; legal: {PLACEMENTS}",
    "mesh: {dp: 2}\nparams: {a: {dp: [shard(0)]}}": f"s.yaml:2: params 'a', axis 'dp': got a list; legal: {PLACEMENTS}",
    "mesh: {dp: 2}\nparams: {a: {dp: shard(0, parts=3)}}": "s.yaml:2: params 'a', axis 'dp': unknown placement 'shard(0'; "
    'quote what has a comma inside { }: "shard(0, parts=3)"',
    "mesh: {dp: 2}\nparams: {a..b: {}}": "s.yaml:2: params 'a..b': a component is empty: "
    "a dot at the start, at the end, or after another dot",
    "mesh: {dp: 2}\ninputs: {'*': {dp: fully_shard}}": "s.yaml:2: inputs '*', axis 'dp': got fully_shard, "
    "which is for params; legal: replicate, shard(DIM), shard(DIM, parts=N)",
    "mesh: {dp: 2}\ninputs: {0: {}, '0': {}}": "s.yaml:2: inputs: '0' is there twice, first at s.yaml:2; legal: once",
    "mesh: {dp: 2}\ninputs: {-1: {}}": "s.yaml:2: inputs: got the number -1 as a key; "
    'legal: text, such as {"**": {dp: replicate}}; quotes make text of anything',
    # the scopes
    "mesh: {dp: 2}\nscopes: {a: {}, a: {}}": "s.yaml:2: scopes: 'a' is there twice, first at s.yaml:2; legal: once",
    "mesh: {dp: 2}\nscopes: {a: shard(0)}": "s.yaml:2: scopes 'a': got 'shard(0)'; "
    "legal: a mapping, such as {out: {dp: replicate}}",
    "mesh: {dp: 2}\nscopes: {a: {outs: {}}}": "s.yaml:2: scopes 'a': unknown key 'outs'; legal: out, inputs, backward; "
    "did you mean out?",
    "mesh: {dp: 2}\nscopes: {a: {out: {tp: replicate}}}": "s.yaml:2: scopes 'a', out: unknown axis 'tp'; legal: dp; "
    "did you mean dp?",
    "mesh: {dp: 2}\nscopes: {a: {backward: {dp: replicate}}}": "s.yaml:2: scopes 'a', backward: unknown key 'dp'; "
    "legal: out",
    "mesh: {dp: 2}\nscopes: {a: {backward: {out: {dp: fully_shard}}}}": "s.yaml:2: scopes 'a', backward, out, axis 'dp': "
    "got fully_shard, which is for params; legal: replicate, shard(DIM), shard(DIM, parts=N)",
    # not YAML, or too much of it
    "mesh: {dp: 2": "s.yaml:1: not YAML that can be used: while parsing a flow mapping, "
    "expected ',' or '}', but got '<stream end>'",
    "mesh: dp: 2": "s.yaml:1: not YAML that can be used: mapping values are not allowed here",
    "mesh:\n\tdp: 2": "s.yaml:2: not YAML that can be used: while scanning for the next token, "
    "found character '\\t' that cannot start any token; indent with spaces, not with tabs",
    "mesh: {dp: 2}\nparams:\n  **: {}": "s.yaml:3: not YAML that can be used: while scanning an alias, "
    "expected alphabetic or numeric character, but found '*'; quote a pattern that begins with *, such as \"**\"",
    "mesh: {dp: 2}\n---\nmesh: {dp: 2}": "s.yaml:2: not YAML that can be used: expected a single document in the stream, "
    "but found another document",
    "mesh: {dp: 2}\nparams: \x07": "s.yaml:2: got the character '\\x07', which YAML does not allow",
    'mesh: {"\\UFFFFFFFF": 2}': "s.yaml: not YAML: ",
    "mesh: {dp: !!python/name:os.system 2}": "s.yaml:1: got the tag 'python/name:os.system'; "
    "legal: plain text, numbers, lists and mappings",
    "mesh: !mine {dp: 2}": "s.yaml:1: got the tag '!mine'; legal: plain text, numbers, lists and mappings",
    "mesh: {<<: {dp: 2}}": "s.yaml:1: << merges nothing here; legal: plain text, numbers, lists and mappings",
    "mesh: " + "[" * 2000: f"s.yaml:1: not YAML that can be used: more than {DEEPEST} levels of mappings and lists "
    "in each other",
    "mesh: &a {dp: *a}": f"s.yaml:1: more than {DEEPEST} levels of mappings and lists in each other, "
    "counting what aliases stand for",
    "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcde", "bcdef", strict=True)): (
        f"s.yaml:1: more than {MOST_VALUES:,} keys and values, counting what aliases stand for"
    ),
    "a: [" + "1," * MOST_VALUES + "]": f"s.yaml:1: not YAML that can be used: more than {MOST_VALUES:,} keys and values",
    "#" * (MOST_BYTES + 1): f"s.yaml: the text is too large; legal: at most {MOST_BYTES:,} characters",
}


@pytest.mark.parametrize(("text", "message"), REFUSED.items(), ids=[message[:70] for message in REFUSED.values()])
def test_what_is_refused_and_how(text: str, message: str) -> None:
    said = refusal(text)
    assert said.startswith(message) if message.endswith(": ") else said == message


def test_too_many_rules() -> None:
    rules = "".join(f"  {index}: {{}}\n" for index in range(MOST_RULES + 1))
    assert refusal(f"mesh: {{dp: 2}}\ninputs:\n{rules}") == (
        f"s.yaml:{MOST_RULES + 3}: inputs: got more than {MOST_RULES:,} rules; legal: at most {MOST_RULES:,}"
    )


def test_python_is_refused_by_the_same_messages() -> None:
    cases: list[tuple[dict[str, object], str]] = [
        ({"mesh": {"dp": True}}, "mesh, axis 'dp': got a value of type bool; legal: an integer from 1 to 65,536"),
        ({"mesh": {"dp": 10**5000}}, "mesh, axis 'dp': got a huge number; legal: an integer from 1 to 65,536"),
        ({"mesh": 2}, "mesh: got the number 2; legal: a mapping, such as {dp: 2}"),
        ({"mesh": None}, "mesh: missing; legal: the axes over the workers, such as mesh: {dp: 2}"),
        ({"params": {"a": Shard(0)}}, "params 'a': got shard(0); legal: a mapping, such as {dp: replicate}"),
        ({"params": {"a": {"dp": Shard}}}, f"params 'a', axis 'dp': got a value of type StructMeta; legal: {PLACEMENTS}"),
        ({"params": {"a": {"dp": None}}}, f"params 'a', axis 'dp': got nothing; legal: {PLACEMENTS}"),
        (
            {"params": {"a": {"dp": Shard(99)}}},
            "params 'a', axis 'dp': dim in 'shard(99)' is '99'; legal: an integer from -64 to 63",
        ),
        ({"inputs": {0: {}, "0": {}}}, "inputs: '0' is there twice, first at gt.sharding; legal: once"),
    ]
    for arguments, message in cases:
        with pytest.raises(ConfigError, match=f"^gt.sharding: {re.escape(message)}$"):
            sharding(**{"mesh": {"dp": 2}, **arguments})  # type: ignore[arg-type]
    circle: dict[str, object] = {}
    circle["a"] = circle
    with pytest.raises(ConfigError, match=r"^gt\.sharding: more than 8 levels"):
        sharding(mesh={"dp": 2}, params=circle)  # type: ignore[arg-type]


def test_the_page_shows_a_message_as_it_is() -> None:
    page = (Path(__file__).parents[2] / "docs" / "sharding.md").read_text()
    message = refusal('mesh: {tp: 2}\n\nparams:\n  "**.q_proj.weight": {tp: shrad(0)}')
    assert f"\n    sharding.yaml{message.removeprefix('s.yaml')}\n" in page


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


# -- patterns ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("**", ["a", "a.b.c", ""], []),
        ("*", ["a", ""], ["a.b"]),
        ("model.layers.*", ["model.layers.0", "model/layers/0"], ["model.layers", "model.layers.0.mlp", "a.model.layers.0"]),
        ("model.layers.**", ["model.layers", "model.layers.0.mlp"], ["model"]),
        (
            "**.self_attn.{q,k,v}_proj.weight",
            ["model.layers.0.self_attn.q_proj.weight", "self_attn.v_proj.weight"],
            ["model.layers.0.self_attn.o_proj.weight", "my_self_attn.q_proj.weight", "self_attn.q_proj.weight.a"],
        ),
        ("**.{embed_tokens,lm_head}.weight", ["lm_head.weight", "model.embed_tokens.weight"], ["embed_tokens.bias"]),
        ("a.**.b", ["a.b", "a.x.b", "a.x.y.b"], ["ab", "a", "a.bb"]),
        ("**.a.**.a", ["a.a", "x.a.y.a"], ["a", "x.a"]),
        ("**.**", ["a", "a.b"], []),
        ("a.*.**", ["a.b", "a.b.c"], ["a"]),
        ("*_proj*", ["q_proj", "q_proj2", "_proj"], ["q_pro.j"]),
        ("*a*a", ["aa", "xaxa"], ["a", "aab"]),
        ("a?.[b](c)+$", ["a?.[b](c)+$"], ["ax.b"]),
        ("{a.,}b", ["a.b", "b"], ["a."]),
        ("{ a , b }", ["a", "b"], [" a "]),
        ("train/step", ["train/step", "train.step"], ["train", "step"]),
    ],
)
def test_patterns(pattern: str, matching: list[str], other: list[str]) -> None:
    compiled = Pattern(pattern)
    assert [name for name in matching if not compiled.matches(name)] == []
    assert [name for name in other if compiled.matches(name)] == []


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("", "a pattern is not empty; ** matches every name"),
        ("a{b", "braces come in pairs, and not inside each other; legal: {a,b}"),
        ("a}b", "braces come in pairs, and not inside each other; legal: {a,b}"),
        ("{a,{b,c}}", "braces come in pairs, and not inside each other; legal: {a,b}"),
        ("a.{}", "there is nothing between the braces; legal: {a,b}"),
        ("a.", "a component is empty: a dot at the start, at the end, or after another dot"),
        (".a", "a component is empty: a dot at the start, at the end, or after another dot"),
        ("a.{b,}", "a component is empty: a dot at the start, at the end, or after another dot"),
        ("a**", "** stands between dots, for whole components, not as in 'a**'; legal: *, or **."),
        ("***", "** stands between dots, for whole components, not as in '***'; legal: *, or **."),
        ("{a,b}" * 9, "the braces stand for more than 256 patterns"),
        ("a" * 1001, "a pattern has at most 1,000 characters; this one has 1,001"),
    ],
)
def test_patterns_that_are_not_well_formed(pattern: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        Pattern(pattern)


def test_no_pattern_takes_long() -> None:
    assert not Pattern("**.a." * 100 + "b").matches("a." * 5000 + "c")
    assert not Pattern("*a" * 400 + "b").matches("a" * 10_000)


def reference(pattern: str, name: str) -> bool:
    """The definition, one character at a time: every choice is tried."""
    if opening := re.search(r"\{([^{}]*)\}", pattern):
        before, after = pattern[: opening.start()], pattern[opening.end() :]
        return any(reference(before + one.strip() + after, name) for one in opening[1].split(","))
    return components(pattern.split("."), name.split("."))


def components(pattern: list[str], names: list[str]) -> bool:
    if not pattern:
        return not names
    if pattern[0] == "**":
        return any(components(pattern[1:], names[i:]) for i in range(len(names) + 1))
    return bool(names) and characters(pattern[0], names[0]) and components(pattern[1:], names[1:])


def characters(pattern: str, text: str) -> bool:
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(characters(pattern[1:], text[i:]) for i in range(len(text) + 1))
    return text[:1] == pattern[0] and characters(pattern[1:], text[1:])


WORDS = st.text("ab", min_size=1, max_size=3)
NAMES = st.lists(st.text("ab", max_size=4), min_size=1, max_size=6).map(".".join)
BRACES = st.lists(st.sampled_from(["a", "b", "ab", "*", "a.b", "*b"]), min_size=1, max_size=3).map(
    lambda c: f"{{{','.join(c)}}}"
)
COMPONENTS = st.lists(st.one_of(WORDS, st.just("*"), BRACES), min_size=1, max_size=3).map("".join)
PATTERNS = st.lists(st.one_of(st.just("**"), st.just("*"), COMPONENTS), min_size=1, max_size=5).map(".".join)


@hypothesis.settings(max_examples=200, deadline=None, derandomize=True, database=None)
@hypothesis.given(PATTERNS, st.lists(NAMES, min_size=1, max_size=20))
def test_patterns_match_what_their_definition_says(pattern: str, names: list[str]) -> None:
    try:
        compiled = Pattern(pattern)
    except ConfigError:
        hypothesis.reject()
    assert [compiled.matches(name) for name in names] == [reference(pattern, name) for name in names]


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
