"""Description of the replayed trace in a result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kvtrace.show.printable import utf8

if TYPE_CHECKING:
    from kvtrace.trace.header import Header
    from kvtrace.trace.reader import Trace


REPLAY, WHOLE = "replay", "whole"
"""In a result trace's statistics: what is said of the run, and whether it did the whole trace."""

RESULT_KEY = b"kvtrace.result"
"""Key in a result trace's metadata of the result's document, as JSON."""


@dataclass(frozen=True, slots=True)
class TraceInfo:
    """What was replayed. `header`: all that the trace says of itself.

    `rows_replayed`: rows within the limits; of a run that was ended before them, ops that it began.
    `generated_tokens`: of its requests; None where unknown, or if a part of them was replayed.
    """

    path: str
    sha256: str
    rows: int
    rows_replayed: int
    duration_ns: int
    model: str | None
    bytes_per_token: float | None
    generated_tokens: int | None
    header: dict[str, Any]
    whole: bool = False
    """Whether all of it was replayed, as far as its tiers were executed."""
    rounds: float = 1.0
    """How often the ops of executed tiers were begun; below 1: that share of them."""


def describe(
    trace: Trace, *, sha256: str, rows_replayed: int, duration_ns: int, rounds: float = 1.0
) -> TraceInfo:
    """Return what is to be said of `trace`, of which `rows_replayed` rows were replayed."""
    header = trace.header
    before = header.statistics.get(REPLAY, {WHOLE: True})
    whole = rows_replayed == trace.rows and bool(before.get(WHOLE))
    tokens = header.statistics.get("generated_tokens") if whole else None
    return TraceInfo(
        path=utf8(trace.path),
        sha256=sha256,
        rows=trace.rows,
        rows_replayed=rows_replayed,
        duration_ns=duration_ns,
        model=(header.model or {}).get("name"),
        bytes_per_token=_bytes_per_token(header),
        generated_tokens=None if tokens is None else int(tokens),
        header=header.model_dump(mode="json"),
        whole=whole,
        rounds=rounds,
    )


def _bytes_per_token(header: Header) -> float | None:
    """Return the bytes that the trace's rows move per token of KV."""
    layout = header.layout or {}
    for name in ("emitted_bytes_per_token", "stored_bytes_per_token"):
        if layout.get(name):
            return float(layout[name])
    return None
