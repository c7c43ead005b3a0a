"""Configurations in YAML. The tags of `yaml.safe_load`, and no more of them than the grammar needs; every line is known."""

from __future__ import annotations

import os
import re

import yaml

from gt import regular
from gt.errors import ConfigError
from gt.placement.grammar import DEEPEST, read
from gt.placement.layout import Sharding
from gt.placement.written import Written, WrittenMapping, fault, meant, quoted

MOST_BYTES = 256 * 1024
MOST_VALUES = 20_000
"""Of keys and values, where an alias counts as what it stands for."""
SUFFIXES = (".yaml", ".yml")
EXAMPLE = "legal: a YAML file that says at least mesh: {dp: 2}"
_TAG = "tag:yaml.org,2002:"
_INTEGER = re.compile(r"[+-]?(?:0|[1-9][0-9]{0,17})")
"""Decimal, so that 010 is not 8."""
_SCALARS = {
    "str": "{0}",
    "value": "{0}",  # a lone =
    "int": "the number {1}",
    "float": "the number {1}",
    "bool": "the boolean {1}",
    "timestamp": "the date {1}",
    "null": "nothing",
}
"""What a message calls a scalar, by its tag: the text in quotes, or without."""
HINTS = {
    r"\t": "indent with spaces, not with tabs",
    "alias": 'quote a pattern that begins with *, such as "**"',
}


def load(path: str | os.PathLike[str]) -> Sharding:
    """The configuration in a file. Raises ConfigError, which names file and line."""
    name = os.fsdecode(path)
    source = repr(name)[1:-1]
    try:
        with regular.reading(name) as file:
            data = file.read(MOST_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigError(f"{source}: {error.strerror}; {EXAMPLE}{_near(name)}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{source}: {getattr(error, 'strerror', None) or error}; {EXAMPLE}") from None
    if len(data) > MOST_BYTES:
        raise ConfigError(f"{source}: the file is too large; legal: at most {MOST_BYTES:,} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(f"{source}:{line}: got the byte 0x{data[error.start]:02x}; legal: text in UTF-8") from None
    return parse(text, source)


def parse(text: str, source: str) -> Sharding:
    """The configuration that a YAML text holds; `source` is what messages call it. Raises ConfigError."""
    if len(text) > MOST_BYTES:
        raise ConfigError(f"{source}: the text is too large; legal: at most {MOST_BYTES:,} characters")
    node = _compose(text, source)
    if node is None:
        raise ConfigError(f"{source}:1: it says nothing; {EXAMPLE}")
    return read(_Reader(source).written(node), source)


def _near(name: str) -> str:
    """The file of the same folder that may have been meant."""
    folder, last = os.path.split(name)
    try:
        there = sorted(entry for entry in os.listdir(folder or ".") if entry.endswith(SUFFIXES) and entry.isprintable())
    except (OSError, ValueError):
        return ""
    return meant(last, there)


class _Loader(yaml.SafeLoader):
    """Composes nodes, as deep and as many as a configuration may have."""

    level = -1
    count = 0

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node | None:
        self.level += 1
        self.count += 1
        if self.level > DEEPEST or self.count > MOST_VALUES:
            raise yaml.composer.ComposerError(None, None, _too_much(self.level), self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        node: yaml.Node | None = super().compose_node(parent, index)  # type: ignore[arg-type]
        self.level -= 1
        return node


def _too_much(level: int) -> str:
    if level > DEEPEST:
        return f"more than {DEEPEST} levels of mappings and lists in each other"
    return f"more than {MOST_VALUES:,} keys and values"


def _compose(text: str, source: str) -> yaml.Node | None:
    try:
        return _Loader(text).get_single_node()
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise ConfigError(
            f"{source}:{line}: got the character {chr(error.character)!r}, which YAML does not allow"
        ) from None
    except yaml.MarkedYAMLError as error:
        raise _not_yaml(error, source) from None
    except (ValueError, OverflowError) as error:  # a character beyond Unicode, \UFFFFFFFF
        raise ConfigError(f"{source}: not YAML: {error}") from None


def _not_yaml(error: yaml.MarkedYAMLError, source: str) -> ConfigError:
    mark = error.problem_mark or error.context_mark
    said = ", ".join(part for part in (error.context, error.problem) if part)
    hint = next((f"; {hint}" for sign, hint in HINTS.items() if sign in said), "")
    line = f":{mark.line + 1}" if mark else ""
    return ConfigError(f"{source}{line}: not YAML that can be used: {said[:200]}{hint}")


class _Reader:
    """Nodes as written values. Counts again, since an alias may stand for many values, or for what contains it."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._count = 0

    def written(self, node: yaml.Node, level: int = 0) -> Written:
        """What a node says. Raises ConfigError."""
        at = Written(None, f"{self._source}:{node.start_mark.line + 1}", "")
        self._count += 1
        if level > DEEPEST or self._count > MOST_VALUES:
            raise fault(at, "", f"{_too_much(level)}, counting what aliases stand for")
        tag = str(node.tag).removeprefix(_TAG)
        if isinstance(node, yaml.ScalarNode) and tag in _SCALARS:
            return _scalar(at, tag, str(node.value))
        if isinstance(node, yaml.SequenceNode) and tag == "seq":
            return at._replace(value=[self.written(one, level + 1) for one in node.value], got="a list")
        if isinstance(node, yaml.MappingNode) and tag == "map":
            pairs = ((self.written(key, level + 1), self.written(value, level + 1)) for key, value in node.value)
            return at._replace(value=WrittenMapping(pairs), got="a mapping")
        legal = "legal: plain text, numbers, lists and mappings"
        raise fault(at, "", "<< merges nothing here; " + legal if tag == "merge" else f"got the tag {quoted(tag)}; {legal}")


def _scalar(at: Written, tag: str, text: str) -> Written:
    value: object = text if tag in ("str", "value") else None
    if tag == "int" and _INTEGER.fullmatch(text):
        value = int(text)
    return at._replace(value=value, got=_SCALARS[tag].format(quoted(text), quoted(text)[1:-1]))
