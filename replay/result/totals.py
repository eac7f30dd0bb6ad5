"""Totals of all lanes of a result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from kvtrace.trace.schema import Phase, Tier
from kvtrace.units import S_NS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from replay.measure.figures import GroupDocument, LaneDocument
    from replay.result.trace_info import TraceInfo

REQUEST_PHASES = (Phase.PREFILL.label, Phase.DECODE.label)
"""Of what requests do themselves."""


def headline_of(lanes: Sequence[LaneDocument]) -> LaneDocument:
    """Return the slowest tier that moved bytes: percentiles at the top are its, never mixed."""
    order = [tier.label for tier in Tier]
    moving = [lane for lane in lanes if lane.bytes]
    return max(moving or lanes, key=lambda lane: order.index(lane.tier))


def kv_tokens_per_s(trace: TraceInfo, bytes_per_s: float | None) -> float | None:
    """Return a throughput in tokens of KV; None where the trace names no model."""
    per_token = trace.bytes_per_token
    return bytes_per_s / per_token if per_token and bytes_per_s is not None else None


def storage_throughput_tokens_per_s(
    trace: TraceInfo, groups: Iterable[GroupDocument]
) -> float | None:
    """Return the requests' generated tokens ÷ summed I/O time of the requests' own ops.

    `groups`: of each tier × phase × op.

    Source: MLPerf Storage KV cache benchmark, v3.0: demotions are in no request's I/O time.
    """
    return tokens_per_io_s(
        trace.generated_tokens, ((group.phase, group.service_ns) for group in groups)
    )


class _Timed(Protocol):
    """Mean and count of some times."""

    @property
    def mean(self) -> float | None: ...
    @property
    def count(self) -> int: ...


def request_io_ns(groups: Iterable[tuple[str, _Timed | None]]) -> float:
    """Return the summed service time of what requests do themselves.

    `groups`: (phase, service times); those of demotions and promotions don't count.
    """
    return sum(
        groups_of_key.mean * groups_of_key.count
        for phase, groups_of_key in groups
        if phase in REQUEST_PHASES and groups_of_key is not None and groups_of_key.mean is not None
    )


def tokens_per_io_s(
    tokens: int | None, groups: Iterable[tuple[str, _Timed | None]]
) -> float | None:
    """Return tokens ÷ `request_io_ns`; None where either isn't known."""
    io_ns = request_io_ns(groups)
    return tokens * S_NS / io_ns if tokens and io_ns else None
