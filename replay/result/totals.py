"""Totals of all lanes of a result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from kvtrace.trace.schema import Phase
from kvtrace.units import S_NS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from replay.measure.recorder import Group, LaneMeasure
    from replay.result.trace_info import TraceInfo

REQUEST_PHASES = (Phase.PREFILL.label, Phase.DECODE.label)
"""Of what requests do themselves."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over `lanes`, at least one."""

    lanes: tuple[LaneMeasure, ...]
    groups: tuple[Group, ...]
    """Of each tier × phase × op."""
    trace: TraceInfo

    @property
    def headline(self) -> LaneMeasure:
        """The slowest tier that moved bytes: percentiles at the top are its, never mixed ones."""
        moving = [lane for lane in self.lanes if lane.bytes]
        return max(moving or self.lanes, key=lambda lane: lane.tier)

    @property
    def window_ns(self) -> int:
        """The longest lane's window."""
        return max(lane.window_ns for lane in self.lanes)

    @property
    def ops(self) -> int:
        """Ops that completed without error."""
        return sum(lane.ops for lane in self.lanes)

    @property
    def bytes(self) -> int:
        """Bytes read and written."""
        return sum(lane.bytes for lane in self.lanes)

    @property
    def bytes_per_s(self) -> float | None:
        """Bytes completed in the lanes' windows ÷ the longest window."""
        moved = sum(lane.completed.bytes for lane in self.lanes)
        return moved * S_NS / self.window_ns if self.window_ns else None

    @property
    def ops_per_s(self) -> float | None:
        """Reads and writes completed in the lanes' windows ÷ the longest window."""
        done = sum(lane.completed.ops for lane in self.lanes)
        return done * S_NS / self.window_ns if self.window_ns else None

    def kv_tokens_per_s(self, bytes_per_s: float | None) -> float | None:
        """Return a throughput in tokens of KV; None where the trace names no model."""
        per_token = self.trace.bytes_per_token
        return bytes_per_s / per_token if per_token and bytes_per_s is not None else None

    @property
    def storage_throughput_tokens_per_s(self) -> float | None:
        """The requests' generated tokens ÷ summed I/O time of the requests' own ops.

        Source: MLPerf Storage KV cache benchmark, v3.0: demotions are in no request's I/O time.
        """
        groups = ((group.phase.label, group.service) for group in self.groups)
        return tokens_per_io_s(self.trace.generated_tokens, groups)


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
