"""Sizes, durations and rates as people write them, to exact integers and back."""

from __future__ import annotations

import re
from decimal import Decimal

from kvtrace.errors import UsageError

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
US_NS, MS_NS, S_NS = 1_000, 1_000_000, 1_000_000_000
DAY_S = 86_400
UNLIMITED = (1 << 63) - 1
"""Capacity in bytes of a tier without a limit."""

_BYTES = {"": 1, "B": 1} | {
    f"{prefix}{suffix}": base**power
    for power, prefix in enumerate("KMGTP", start=1)
    for base, suffix in ((1000, ""), (1000, "B"), (1024, "iB"))
}
_BYTES_FOLDED = {unit.lower(): factor for unit, factor in _BYTES.items()}
_NS = {
    "ns": 1,
    "us": US_NS,
    "ms": MS_NS,
    "s": S_NS,
    "": S_NS,
    "m": 60 * S_NS,
    "min": 60 * S_NS,
    "h": 3600 * S_NS,
    "d": 86_400 * S_NS,
}
_QUANTITY = re.compile(r"\s*(\d+(?:_\d+)*(?:\.\d*)?|\.\d+)\s*([A-Za-z]*)\s*")


_FRACTION = re.compile(r"[\d_]*\.\d*[1-9]\d*")
"""A number that isn't whole, without a unit."""


def _parse(text: str, units: dict[str, int], *, what: str, accepted: str) -> int:
    match = _QUANTITY.fullmatch(text)
    factor = units.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise UsageError(f"not a {what}", got=repr(text), accepted=accepted)
    return int(Decimal(match[1].replace("_", "")) * factor)


def parse_bytes(text: str) -> int:
    """Return bytes: ``80GiB`` is 80 · 2³⁰, ``4TB`` is 4 · 10¹², a bare number is bytes.

    ``unlimited`` is `UNLIMITED`. Raises UsageError, for a fraction of a byte too.
    """
    if text.strip().lower() == "unlimited":
        return UNLIMITED
    if _FRACTION.fullmatch(text.strip()):  # a unit was left out
        raise UsageError("a size in bytes is a whole number", got=repr(text), hint="add a unit")
    return _parse(text, _BYTES_FOLDED, what="size", accepted="e.g. 4096, 512MiB, 80GiB, 4TB")


def parse_duration_ns(text: str) -> int:
    """Return nanoseconds: ``60s``, ``1h``, ``250us``; a bare number is seconds.

    Raises UsageError.
    """
    return _parse(text, _NS, what="duration", accepted="e.g. 250us, 30ms, 60s, 5min, 1h")


def parse_rate_per_s(text: str) -> float:
    """Return events per second: ``10/s``, ``600/min``, ``10``. Raises UsageError."""
    count, _, per = text.partition("/")
    try:
        value = float(count)
        period_ns = _NS[per.strip().lower() or "s"]
    except (ValueError, KeyError):
        raise UsageError("not a rate", got=repr(text), accepted="e.g. 10/s, 600/min, 2.5") from None
    if not 0 < value < float("inf"):
        raise UsageError("not a rate", got=repr(text), accepted="a number above 0")
    return value * S_NS / period_ns


def exact_bytes(count: int) -> str:
    """Return bytes in the largest unit that divides them, as `parse_bytes` reads it: ``64KiB``."""
    if count >= UNLIMITED:
        return "unlimited"
    units = (("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB))
    for unit, factor in units if count else ():
        if count % factor == 0:
            return f"{count // factor}{unit}"
    return str(count)


def exact_duration(duration_ns: int) -> str:
    """Return a duration in the largest unit that divides it, for `parse_duration_ns`: ``10s``."""
    for unit, factor in (("s", S_NS), ("ms", MS_NS), ("us", US_NS)):
        if duration_ns % factor == 0:
            return f"{duration_ns // factor}{unit}"
    return f"{duration_ns}ns"


def exact_rate(per_s: float) -> str:
    """Return a rate as `parse_rate_per_s` reads it back: ``10/s``."""
    short = f"{per_s:g}"
    return f"{short if float(short) == per_s else repr(per_s)}/s"


def format_bytes(count: int | float) -> str:
    """Return bytes in the binary unit that keeps the number short: ``1.50 GiB``."""
    if count >= UNLIMITED:
        return "unlimited"
    for unit, factor in (("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if abs(count) >= factor:
            return f"{count / factor:.2f} {unit}"
    return f"{count:.0f} B"


def format_rate(bytes_per_s: float) -> str:
    """Return a rate in decimal GB/s, from ten thousand on in TB/s: ``1.234 GB/s``."""
    if abs(bytes_per_s) >= 10**13:
        return f"{bytes_per_s / 10**12:,.1f} TB/s"
    return f"{bytes_per_s / 10**9:.3f} GB/s"


def format_duration_ns(duration_ns: int | float) -> str:
    """Return a duration in the unit that keeps the number short: ``12.3 µs``, ``1.50 s``."""
    for unit, factor in (("s", S_NS), ("ms", MS_NS), ("µs", US_NS)):
        if abs(duration_ns) >= factor:
            return f"{duration_ns / factor:.{3 if abs(duration_ns) < 10 * factor else 1}f} {unit}"
    return f"{duration_ns:.0f} ns"


def format_count(count: int | float) -> str:
    """Return a count with thousands separators; from ten million on in millions: ``12.3 M``."""
    for unit, factor in (("T", 10**12), ("G", 10**9), ("M", 10**6)):
        if abs(count) >= 10 * factor:
            return f"{count / factor:,.1f} {unit}"
    return f"{count:,.0f}"
