"""Bytes moved on each tier, by the benchmark's definition and by kvtrace's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvtrace.trace.schema import Op, Phase, Tier
from replay.measure.summaries import Distribution, merged
from replay.result.totals import REQUEST_PHASES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from replay.result.document import ResultDocument

NAMES: Mapping[str, str] = {
    Tier.GPU.label: "gpu",
    Tier.CPU.label: "cpu",
    Tier.NVME.label: "storage",
}
"""Its name of each tier that it knows."""
READ, WRITE = Op.READ.label, Op.WRITE.label


@dataclass(frozen=True, slots=True)
class Moved:
    """Reads or writes of one tier. `own_…`: of requests themselves, which is all that it counts."""

    own_ops: int
    own_bytes: int
    own_service_ns: Distribution
    ops: int
    bytes: int
    service_ns: Distribution


@dataclass(frozen=True, slots=True)
class TierMoved:
    """What one executed tier did. `name`: the benchmark's."""

    tier: str
    name: str
    read: Moved
    write: Moved
    demoted_bytes: int
    """Written by demotions."""

    def of(self, op: str) -> Moved:
        """Return its reads or its writes."""
        return self.read if op == READ else self.write


def moved(document: ResultDocument) -> list[TierMoved]:
    """Return what the executed tiers did that the benchmark has a name for, fastest first."""
    return [
        TierMoved(
            tier,
            name,
            _moved(document, tier, READ),
            _moved(document, tier, WRITE),
            sum(
                group.bytes
                for group in document.groups
                if (group.tier, group.op, group.phase) == (tier, WRITE, Phase.EVICT.label)
            ),
        )
        for tier, name in NAMES.items()
        if any(lane.tier == tier for lane in document.lanes)
    ]


def _moved(document: ResultDocument, tier: str, op: str) -> Moved:
    groups = [group for group in document.groups if group.tier == tier and group.op == op]
    own = [group for group in groups if group.phase in REQUEST_PHASES]
    return Moved(
        own_ops=sum(group.ops for group in own),
        own_bytes=sum(group.bytes for group in own),
        own_service_ns=merged(group.service_distribution_ns for group in own),
        ops=sum(group.ops for group in groups),
        bytes=sum(group.bytes for group in groups),
        service_ns=merged(group.service_distribution_ns for group in groups),
    )


def elapsed_s(document: ResultDocument) -> float:
    """Return how long the run took, until its last completion."""
    return max(lane.window_s + lane.drain_s for lane in document.lanes)


def ops(document: ResultDocument, op: str, *phases: str) -> int:
    """Return how many ops of a kind were done in some phases, on all executed tiers."""
    return sum(group.ops for group in document.groups if group.op == op and group.phase in phases)
