"""Values at which parsers and arithmetic go wrong."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

INTEGERS = (
    0, 1, -1, 2, 3, 7, 127, 128, 255, 256, 4095, 4096, 65535, 65536, (1 << 31) - 1, 1 << 31,
    (1 << 32) - 1, 1 << 32, 1 << 40, (1 << 40) + 1, 1 << 48, 1 << 53, (1 << 62) - 1, 1 << 62,
    (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 64, -(1 << 31), -(1 << 62), -(1 << 63), 10**30,
)  # fmt: skip
TEXTS = (
    "", " ", "0", "-1", "1e309", "-1e309", "nan", "inf", "1_000", "0x10", "+5", "1.5", "true",
    "null", "\x00", "\t", '"', "'", ",", "[red]", "[/y]", "\x1b[2J", "../../x", "-x", "é", "\ud7ff",
    "\U0001f600", "9" * 20, "9" * 400, "9" * 5000, "a" * 300, "a" * 70_000, "1e-400", "5e-324",
    "NaN", "Infinity", "2023-13-45 99:99:99", "1970-01-01T00:00:00Z", "9999-12-31T23:59:59.999Z",
    "0001-01-01 00:00:00", "=1+1", "%s%n", "{}", "[]", "read", "write", "nvme", "\N{BOM}",
)  # fmt: skip


def nested(depth: int, *, of_lists: bool = True) -> str:
    """Return JSON of that depth."""
    return "[" * depth + "]" * depth if of_lists else '{"a":' * depth + "1" + "}" * depth


def raw_json(rng: np.random.Generator) -> str:
    """Return JSON, or what nearly is, that stands for one value."""
    choice = int(rng.integers(10))
    if choice < 4:
        return str(INTEGERS[rng.integers(len(INTEGERS))])
    if choice < 6:
        return json.dumps(TEXTS[rng.integers(len(TEXTS))])
    extra = ("null", "true", "false", "[]", "{}", "1e400", "-1e400", "NaN", "Infinity", "1.5",
             "-0.0", "1e-320", "9" * 5000, '"\\ud800"', nested(20), nested(3000),
             nested(3000, of_lists=False), "[1,2,3]", '{"a": 1}', "[[1]]", "0.1",
             "[null]")  # fmt: skip
    return extra[rng.integers(len(extra))]


class Raw(str):
    """Text that goes into JSON as it is."""

    __slots__ = ()


def dumps(value: Any) -> str:
    """Return JSON with `Raw` parts as they are."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)}: {dumps(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(dumps, value)) + "]"
    return json.dumps(value)
