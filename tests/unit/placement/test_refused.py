"""Placements as text, and what is refused in a configuration by which message."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from gt.errors import ConfigError
from gt.placement import placement_text
from gt.placement.config_file import MOST_BYTES, MOST_VALUES, parse
from gt.placement.grammar import DEEPEST, sharding
from gt.placement.layout import MOST_RULES, FullyShard, Placement, Replicate, Shard

PLACEMENTS = "replicate, shard(DIM), shard(DIM, parts=N), fully_shard, fully_shard(DIM)"
KEYS = "mesh, workers, params, inputs, scopes"


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as raised:
        parse(text, "s.yaml")
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 500
    return str(raised.value)


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
    page = (Path(__file__).parents[3] / "docs" / "sharding.md").read_text()
    message = refusal('mesh: {tp: 2}\n\nparams:\n  "**.q_proj.weight": {tp: shrad(0)}')
    assert f"\n    sharding.yaml{message.removeprefix('s.yaml')}\n" in page
