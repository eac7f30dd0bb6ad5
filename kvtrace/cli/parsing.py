"""Reads what options say."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from kvtrace.errors import UsageError, unknown_name
from kvtrace.trace.schema import Tier

if TYPE_CHECKING:
    from collections.abc import Callable

Value = TypeVar("Value")
REPORT_HELP = (
    "Write a report: .json, .html, .xlsx, .csv, or .mlperf.json for the tools of MLPerf "
    "Storage's KV benchmark; may be repeated."
)
"""Help of `--report` for one result. A test compares it with the forms that there are."""
FULL_HELP = "Print all tables instead of the short report."


def parsed(option: str, parse: Callable[[str], Value], text: str | None) -> Value | None:
    """Return an option's value; None where it wasn't given. Raises UsageError that names it."""
    if text is None:
        return None
    try:
        return parse(text)
    except UsageError as error:
        raise UsageError(
            error.problem, where=option, got=error.got, accepted=error.accepted
        ) from error


def parse_tiers(text: str | None) -> tuple[Tier, ...] | None:
    """Return the tiers in a list such as `cpu,nvme`; None where it wasn't given."""
    if text is None:
        return None
    return tuple(sorted({_tier(name.strip(), "--tiers") for name in text.split(",")}))


def parse_tier(text: str | None) -> Tier | None:
    """Return the tier of that name; None where it wasn't given."""
    return None if text is None else _tier(text.strip(), "--tier")


def _tier(name: str, where: str) -> Tier:
    known = {tier.label: tier for tier in Tier}
    if name.lower() not in known:
        raise unknown_name("tier", name, known, where=where)
    return known[name.lower()]
