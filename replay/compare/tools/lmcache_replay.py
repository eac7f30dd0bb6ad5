"""LMCache's own replay of a trace (lmcache trace replay --json): trace_replay_summary.json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvtrace.units import MS_NS
from replay.compare.figures import COUNT, NS, Figure
from replay.measure.summaries import TITLES

if TYPE_CHECKING:
    from collections.abc import Iterator

FORM = "lmcache trace replay --json"
CAUTION = (
    "LMCache's replay times calls of its storage manager, many objects each, paced as recorded: "
    "compare them with another such replay only"
)
_SHOWN = ("p50", "p90", "p99")


def recognises(fields: dict[str, Any]) -> bool:
    """Return whether it is such a summary.

    Source: LMCache, lmcache/cli/commands/trace/_stats.py (export_json) at 3d7a413.
    """
    ops = fields.get("ops")
    return (
        "duration_s" in fields
        and isinstance(ops, dict)
        and all(isinstance(op, dict) and "errors" in op and "p50_ms" in op for op in ops.values())
    )


def figures(fields: dict[str, Any]) -> tuple[Figure, ...]:
    """Return failed calls, and percentiles per kind of call under names of their own."""
    return tuple(_all(fields["ops"])) if fields["ops"] else ()


def _all(ops: dict[str, Any]) -> Iterator[Figure]:
    yield Figure("failed ops", sum(op["errors"] for op in ops.values()), COUNT, False)
    for name, op in sorted(ops.items()):
        for quantile in _SHOWN if op["count"] else ():
            value = op[f"{quantile}_ms"] * MS_NS
            yield Figure(f"LMCache {_short(name)} {TITLES[quantile]}", value, NS, False)


def _short(name: str) -> str:
    """Return the called name; of the ends of a context manager, with its owner."""
    *_, owner, last = ("", *name.split("."))
    return f"{owner}.{last.strip('_')}" if last.startswith("__") else last
