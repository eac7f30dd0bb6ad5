"""Reads what options say."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from kvtrace.errors import UsageError, unknown_name
from kvtrace.schema import Tier

if TYPE_CHECKING:
    from collections.abc import Callable

Value = TypeVar("Value")


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
    known = {tier.label: tier for tier in Tier}
    names = [name.strip().lower() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise unknown_name("tier", name, known, where="--tiers")
    return tuple(sorted({known[name] for name in names}))
