"""What a result says of the trace that was replayed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvtrace.header import Header
    from kvtrace.reader import Trace


@dataclass(frozen=True, slots=True)
class TraceInfo:
    """What was replayed. `header`: all that the trace says of itself."""

    path: str
    sha256: str
    rows: int
    rows_replayed: int
    duration_ns: int
    model: str | None
    bytes_per_token: float | None
    generated_tokens: int | None
    header: dict[str, Any]


def describe(trace: Trace, *, sha256: str, rows_replayed: int, duration_ns: int) -> TraceInfo:
    """Return what is to be said of `trace`, of which so many rows were replayed."""
    header = trace.header
    tokens = header.statistics.get("generated_tokens")
    return TraceInfo(
        path=str(trace.path),
        sha256=sha256,
        rows=trace.rows,
        rows_replayed=rows_replayed,
        duration_ns=duration_ns,
        model=(header.model or {}).get("name"),
        bytes_per_token=_bytes_per_token(header),
        generated_tokens=None if tokens is None else int(tokens),
        header=header.model_dump(mode="json"),
    )


def _bytes_per_token(header: Header) -> float | None:
    """Return the bytes that the trace's rows move per token of KV."""
    layout = header.layout or {}
    for name in ("emitted_bytes_per_token", "stored_bytes_per_token"):
        if layout.get(name):
            return float(layout[name])
    return None
