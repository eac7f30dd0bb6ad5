"""From the options of a replay, as they are typed, to what a run takes."""

from __future__ import annotations

from typing import Any

from kvtrace.arguments import invalid
from kvtrace.cli.parsing import parsed
from kvtrace.errors import UsageError, unknown_name
from kvtrace.units import parse_duration_ns
from replay import ReplayOptions
from replay.verdict import CODES


def limit_of(text: str | None) -> tuple[int | None, int | None]:
    """Return (rows, time): a bare number is rows."""
    if text is None:
        return None, None
    if text.replace("_", "").isdigit():
        return int(text), None
    return None, parsed("--limit", parse_duration_ns, text)


def accepted_codes(codes: list[str]) -> tuple[str, ...]:
    """Return the reasons that a user accepts. Raises UsageError for one that there isn't."""
    for code in codes:
        if code not in CODES:
            raise unknown_name("reason", code, CODES, where="--accept")
    return tuple(codes)


def replay_options(**fields: Any) -> ReplayOptions:
    """Return the options of a run; a wrong one is a UsageError that names its flag."""
    try:
        return ReplayOptions(**fields)
    except UsageError as error:
        if (cause := invalid(error)) is None:
            raise
        first = cause.errors()[0]
        name = str(first["loc"][0])
        for unit in ("_bytes", "_ns", "_ratio", "_rows"):
            name = name.removesuffix(unit)
        raise UsageError(
            first["msg"], where=f"--{name.replace('_', '-')}", got=repr(first["input"])
        ) from error
