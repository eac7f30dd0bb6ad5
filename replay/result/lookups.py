"""Look-ups of a recording's cache: requests, hits and misses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kvtrace.trace.schema import Op
from replay.result.totals import REQUEST_PHASES

if TYPE_CHECKING:
    from replay.result.trace_info import TraceInfo


@dataclass(frozen=True, slots=True)
class Lookups:
    """Counts of a whole trace. `hits`: reads of requests' own, re-reads included.

    `misses`: on blocks that were cached earlier and evicted. `blocks`: asked for, once per request;
    `ideal_hit_blocks`: those that a cache which forgets nothing would have found.
    """

    hits: int
    misses: int
    blocks: int
    hit_blocks: int
    ideal_hit_blocks: int

    @property
    def accesses(self) -> int:
        """Requests for blocks that were cached earlier."""
        return self.hits + self.misses

    @property
    def access_hit_ratio(self) -> float | None:
        """Hits ÷ accesses (MLPerf Storage's cache_hit_rate); None without any."""
        return self.hits / self.accesses if self.accesses else None

    @property
    def block_hit_ratio(self) -> float | None:
        """Blocks found ÷ blocks asked for; None without any."""
        return self.hit_blocks / self.blocks if self.blocks else None


NOTHING = Lookups(0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Shared:
    """Blocks that sessions share (system prompts, documents), and those of one session's past.

    `misses`, `session_misses`: on blocks that were cached earlier and evicted.
    """

    blocks: int
    hits: int
    hit_tokens: int
    misses: int
    session_hits: int
    session_misses: int


def lookups_of(trace: TraceInfo) -> Lookups | None:
    """Return what is known of a trace; None unless it was recorded, and all of it replayed."""
    statistics = _statistics(trace)
    if statistics is None or "ideal_hit_blocks" not in statistics:
        return None
    hit_blocks = sum(statistics["hit_blocks"].values())
    reads = sum(
        cell["ops"]
        for cell in trace.header["totals"]["cells"]
        if cell["op"] == Op.READ.label and cell["phase"] in REQUEST_PHASES
    )
    return Lookups(
        hits=reads,
        misses=(statistics["ideal_hit_blocks"] - hit_blocks) * objects_per_block(trace),
        blocks=statistics["blocks"],
        hit_blocks=hit_blocks,
        ideal_hit_blocks=statistics["ideal_hit_blocks"],
    )


def objects_per_block(trace: TraceInfo) -> int:
    """Return how many objects a block is stored as."""
    return int((trace.header.get("layout") or {}).get("objects_per_block") or 1)


def shared_of(trace: TraceInfo) -> Shared | None:
    """Return what is known of shared blocks; None as `lookups_of`, or if the source can't tell."""
    statistics, whole = _statistics(trace), lookups_of(trace)
    if statistics is None or whole is None or "shared_blocks" not in statistics:
        return None
    hits, ideal = statistics["shared_hit_blocks"], statistics["shared_ideal_hit_blocks"]
    session_hits = whole.hit_blocks - hits
    return Shared(
        blocks=statistics["shared_blocks"],
        hits=hits,
        hit_tokens=statistics["shared_hit_tokens"],
        misses=ideal - hits,
        session_hits=session_hits,
        session_misses=whole.ideal_hit_blocks - ideal - session_hits,
    )


def _statistics(trace: TraceInfo) -> dict[str, Any] | None:
    """Return what the trace counts of its requests; None if it isn't of what was replayed."""
    return trace.header.get("statistics") if trace.whole else None
