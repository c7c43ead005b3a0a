"""What patterns match, against their definition, and which are not well formed."""

from __future__ import annotations

import re

import hypothesis
import hypothesis.strategies as st
import pytest

from gt.errors import ConfigError
from gt.placement.pattern import Pattern


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
