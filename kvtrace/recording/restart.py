"""A restart of the engine within a recording: when it is, what it empties, what came back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kvtrace.errors import UsageError
from kvtrace.trace.schema import Tier
from kvtrace.units import S_NS, exact_duration

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvtrace.hierarchy.events import HierarchyStats
    from kvtrace.hierarchy.hierarchy import Hierarchy
    from kvtrace.hierarchy.spec import HierarchySpec

FIRST_NS = 60 * S_NS
"""How long after a restart is counted by itself: later the tiers have filled again."""


@dataclass(frozen=True, slots=True)
class Restarted:
    """What was counted before a restart, in its first minute, and in all after it.

    `tiers`: those that there are. `lost_bytes`: of those that were emptied. `again`: requests in
    flight that were begun once more.
    """

    at_ns: int
    tiers: tuple[Tier, ...]
    lost_bytes: dict[Tier, int]
    again: int
    before: HierarchyStats
    first: HierarchyStats
    after: HierarchyStats

    def plus(self, other: Restarted) -> Restarted:
        """Return what two nodes counted."""
        return Restarted(
            self.at_ns,
            self.tiers,
            {tier: size + other.lost_bytes[tier] for tier, size in self.lost_bytes.items()},
            self.again + other.again,
            self.before.plus(other.before),
            self.first.plus(other.first),
            self.after.plus(other.after),
        )

    def document(self) -> dict[str, Any]:
        """Return it as the header has it."""
        periods = {"before": self.before, "first_minute": self.first, "after": self.after}
        return {
            "at_ns": self.at_ns,
            "lost_bytes": {tier.label: size for tier, size in self.lost_bytes.items()},
            "requests_begun_again": self.again,
            **{name: self._counted(stats) for name, stats in periods.items()},
        }

    def _counted(self, stats: HierarchyStats) -> dict[str, Any]:
        blocks = max(1, stats.blocks)
        return {
            "requests": stats.requests,
            "blocks": stats.blocks,
            "hit_ratio": {tier.label: stats.hits[tier] / blocks for tier in self.tiers},
            "ideal_prefix_hit": stats.ideal_hits / blocks,
            "token_hit_ratio": stats.hit_tokens / max(1, stats.prompt_tokens),
        }


class Restart:
    """The restart of one hierarchy, `at_ns` after its trace begins.

    Raises UsageError if no tier lies in memory: there is nothing that it would empty.
    """

    def __init__(self, hierarchy: Hierarchy, spec: HierarchySpec, at_ns: int) -> None:
        self._hierarchy, self._at_ns = hierarchy, at_ns
        self._present = tuple(tier.tier for tier in spec.tiers if tier.capacity_bytes)
        self._tiers = tuple(tier for tier in self._present if tier < Tier.NVME)
        if not self._tiers:
            raise UsageError(
                "a restart empties tiers gpu and cpu, and there is neither",
                where="--restart-at",
                got=exact_duration(at_ns),
                accepted="a recording with --gpu-mem or --cpu-mem",
            )
        self._begin_ns = 0
        self._lost_bytes: dict[Tier, int] = {}
        self._again = 0
        self._seen: list[HierarchyStats] = []

    def wait(self, begin_ns: int) -> None:
        """Let the hierarchy pause when it is time; the trace begins at `begin_ns`."""
        self._begin_ns = begin_ns
        self._hierarchy.pause_at(time_ns=begin_ns + self._at_ns)

    def at_pause(self) -> None:
        """Do what is due: restart, or note what was counted in the first minute after it."""
        self._seen.append(self._hierarchy.stats())
        if len(self._seen) > 1:
            return
        time_ns = self._begin_ns + self._at_ns
        self._lost_bytes = {tier: self._hierarchy.used_bytes(tier) for tier in self._tiers}
        self._again = self._hierarchy.restart(time_ns, self._tiers)
        self._hierarchy.pause_at(time_ns=time_ns + FIRST_NS)

    def restarted(self, since_begin: Callable[[HierarchyStats], HierarchyStats]) -> Restarted:
        """Return what came of it, once all is over.

        `since_begin` takes off what a warm-up counted. Raises UsageError if it was over before.
        """
        if not self._seen:
            raise UsageError(
                "the requests end before the restart",
                where="--restart-at",
                got=exact_duration(self._at_ns),
                hint="restart earlier, or lengthen --duration",
            )
        at, *later = self._seen
        end = self._hierarchy.stats()
        return Restarted(
            self._at_ns,
            self._present,
            self._lost_bytes,
            self._again,
            since_begin(at),
            (later[0] if later else end).since(at),
            end.since(at),
        )
