"""Reads small documents (JSON, YAML, TOML) with bounds on size, depth and repetition."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from kvtrace.errors import KvtraceError, TraceError

if TYPE_CHECKING:
    from pathlib import Path

    import yaml

MAX_BYTES = 32 << 20
"""Longest JSON; values in memory are up to 24 times as large. Results have some MB at most."""
MAX_CONFIG_BYTES = 1 << 20
"""Longest YAML or TOML."""
MAX_DEPTH = 100
"""Levels of brackets in YAML."""
MAX_NODES = 1 << 20
"""Most values of a YAML document, those that aliases repeat included."""
_BAD = (ValueError, RecursionError, OverflowError, TypeError, AttributeError)
"""What parsers raise beside errors of their own: integers of 5,000 digits, dates of month 13,
nesting of thousands of levels, tags that don't fit their values."""


def read_document(
    path: Path, what: str, *, error: type[KvtraceError] = TraceError, most: int = MAX_BYTES
) -> str:
    """Return a document's text. Raises `error` if it can't be read, isn't UTF-8 or is too long."""
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except (OSError, ValueError) as failure:
        reason = failure.strerror if isinstance(failure, OSError) else failure
        raise error(f"can't read {what}: {reason}", where=path) from failure
    if len(data) > most:
        raise error(f"{what} is too long", where=path, accepted=f"up to {most >> 20} MiB")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as failure:
        raise error(f"can't read {what}: {failure}", where=path) from failure


def parse_json(text: str | bytes, where: object, **more: Any) -> Any:
    """Return the value in `text`. Raises TraceError, with `more` as its further fields."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TraceError(f"not JSON: {error}", where=where, **more) from error


def parse_toml(text: str, where: object) -> dict[str, Any]:
    """Return the table in `text`. Raises TraceError."""
    import tomllib  # here, as help imports this module

    try:
        return tomllib.loads(text)
    except _BAD as error:
        raise TraceError(f"not TOML: {error}", where=where) from error


def parse_yaml(text: str, where: object, *, error: type[KvtraceError] = TraceError) -> Any:
    """Return the value in `text`. Raises `error`, also for aliases that unfold without end."""
    import yaml  # as above

    if _bracket_depth(text) > MAX_DEPTH:
        raise error("not YAML: nested too deep", where=where, accepted=f"{MAX_DEPTH} levels")
    try:
        node = yaml.compose(text, yaml.SafeLoader)
        if _node_count(node, {}) > MAX_NODES:
            raise error(
                "aliases make the document too large",
                where=where,
                accepted=f"up to {MAX_NODES:,} values",
            )
        return yaml.safe_load(text)
    except (yaml.YAMLError, *_BAD) as failure:
        raise error(f"not YAML: {failure}", where=where) from failure


def _bracket_depth(text: str) -> int:
    """Return how deep brackets nest; PyYAML's time grows with the square of it."""
    depth = deepest = 0
    for character in re.findall(r"[\[\]{}]", text):
        depth += 1 if character in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _node_count(node: yaml.Node | None, known: dict[int, int]) -> int:
    """Return how many values a node stands for; one that contains itself, more than accepted."""
    import yaml

    if id(node) in known:
        return known[id(node)]
    known[id(node)] = MAX_NODES + 1  # while its own parts are counted
    parts: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        parts = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        parts = node.value
    total = 1
    for part in parts:
        total = min(total + _node_count(part, known), MAX_NODES + 1)
    known[id(node)] = total
    return total
