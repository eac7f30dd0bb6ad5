"""Sizes, durations and rates."""

from __future__ import annotations

import pytest

from kvtrace.errors import UsageError
from kvtrace.units import (
    UNLIMITED,
    format_bytes,
    format_duration_ns,
    parse_bytes,
    parse_duration_ns,
    parse_rate_per_s,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("4096", 4096),
        ("1_000", 1000),
        ("80GiB", 80 << 30),
        ("4TB", 4 * 10**12),
        ("1.5 MiB", 3 << 19),
        ("2k", 2000),
        ("unlimited", UNLIMITED),
    ],
)
def test_sizes(text: str, expected: int) -> None:
    """Sizes are exact: decimal and binary units are never confused."""
    assert parse_bytes(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("250us", 250_000),
        ("30ms", 30_000_000),
        ("60s", 6 * 10**10),
        ("1h", 36 * 10**11),
        ("2", 2 * 10**9),
    ],
)
def test_durations(text: str, expected: int) -> None:
    """Durations are whole nanoseconds."""
    assert parse_duration_ns(text) == expected


@pytest.mark.parametrize(("text", "expected"), [("10/s", 10), ("600/min", 10), ("2.5", 2.5)])
def test_rates(text: str, expected: float) -> None:
    """Rates are per second whatever unit they are written in."""
    assert parse_rate_per_s(text) == expected


@pytest.mark.parametrize("text", ["", "many", "12 parsecs", "-5", "1..2", "nan"])
def test_refuses(text: str) -> None:
    """What isn't a quantity is refused with examples of what is."""
    for parse in (parse_bytes, parse_duration_ns, parse_rate_per_s):
        with pytest.raises(UsageError, match="accepted"):
            parse(text)


def test_a_size_without_its_unit_is_refused() -> None:
    """Part of a byte is no size; a whole number may be written as a fraction."""
    with pytest.raises(UsageError, match=r"whole number: got .3\.84.; add a unit"):
        parse_bytes("3.84")
    assert parse_bytes("4096.0") == 4096


def test_formats() -> None:
    """Numbers are printed in a unit that keeps them short."""
    assert format_bytes(1536) == "1.50 KiB"
    assert format_bytes(UNLIMITED) == "unlimited"
    assert format_duration_ns(12_300) == "12.3 µs"
    assert format_duration_ns(1_500_000_000) == "1.500 s"
