"""A recording's simulation: what is there at the start, the warm-up, then the events."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.errors import UsageError
from kvtrace.hierarchy.hierarchy import Hierarchy
from kvtrace.recording.restart import Restart, Restarted
from kvtrace.trace.schema import Op, Phase, Tier
from kvtrace.units import UNLIMITED, format_bytes, parse_duration_ns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from kvtrace.hierarchy.events import BlockEvents, HierarchyStats, Tally
    from kvtrace.recording.parts import Recording


class Simulation:
    """One run of a recording's hierarchy.

    `resident`: rows of (tier, key, tokens) that are there when the trace begins. Raises UsageError
    if what a decode-only node is given doesn't fit, or a restart would empty nothing. `numbered`,
    `tallied_tokens`: see Hierarchy.
    """

    def __init__(
        self, recording: Recording, *, numbered: bool = False, tallied_tokens: int = 0
    ) -> None:
        self._recording = recording
        self._hierarchy = Hierarchy(
            recording.spec, numbered=numbered, tallied_tokens=tallied_tokens
        )
        self._tally_before: Tally | None = None
        self._warming = recording.config.warmup is not None
        self._begin_ns = 0
        self._before: HierarchyStats | None = None
        at_ns = recording.config.restart_at
        self._restart = at_ns and Restart(self._hierarchy, recording.spec, at_ns)
        self.resident = np.zeros((0, 3), np.int64)
        if recording.config.role == "decode":
            self._preload()
        if self._warming:
            self._prepare_warmup()
        elif self._restart:
            self._restart.wait(0)

    def _preload(self) -> None:
        """Put all that other nodes have prefilled onto the slowest tier."""
        slowest = max(
            (tier for tier in self._recording.spec.tiers if tier.capacity_bytes),
            key=lambda tier: tier.tier,
        )
        idents, tokens = _prefilled(self._recording)
        fitting = self._hierarchy.preload(slowest.tier, idents, tokens)
        if fitting < len(idents):
            raise UsageError(
                "what the decode-only node is given doesn't fit its slowest tier",
                where=f"tier {slowest.tier.label}",
                got=f"{format_bytes(int(slowest.sizes(tokens).sum()))} of prompts",
                accepted=format_bytes(slowest.limit_bytes(slowest.high_watermark_ratio)),
                hint="enlarge the tier or shorten the recording",
            )
        self.resident = self._hierarchy.resident()

    def _prepare_warmup(self) -> None:
        warmup, spec = self._recording.config.warmup, self._recording.spec
        assert warmup is not None
        self._hierarchy.end_at(time_ns=UNLIMITED, requests=UNLIMITED)
        if warmup.isdigit():
            self._hierarchy.pause_at(requests=int(warmup))
        elif warmup != "steady":
            self._begin_ns = parse_duration_ns(warmup)
            self._hierarchy.pause_at(time_ns=self._begin_ns)
        else:
            bounded = [tier.tier for tier in spec.tiers if 0 < tier.capacity_bytes < UNLIMITED]
            if not bounded:
                raise UsageError(
                    "never gets steady: no tier has a limit",
                    where="--warmup steady",
                    accepted="a duration or a number of requests",
                )
            self._hierarchy.pause_at(evicts=max(bounded))

    def _at_pause(self) -> None:
        if self._warming:
            self._begin()
        elif self._restart:
            self._restart.at_pause()

    def _begin(self) -> None:
        """End the warm-up: what the tiers hold now is what the trace starts with."""
        hierarchy, spec = self._hierarchy, self._recording.spec
        self._warming = False
        self._begin_ns = self._begin_ns or hierarchy.now_ns
        self._before, self._tally_before = hierarchy.stats(), hierarchy.tally()
        self.resident = hierarchy.resident()
        hierarchy.end_at(
            time_ns=min(UNLIMITED, spec.end_ns + self._begin_ns),
            requests=min(UNLIMITED, spec.max_requests + self._before.requests),
        )
        if self._restart:
            self._restart.wait(self._begin_ns)

    def events(self) -> Iterator[BlockEvents]:
        """Yield what happens after the warm-up.

        Raises UsageError if the requests end in it, or before the restart.
        """
        recording = self._recording
        events = self._hierarchy.events(recording.requests(), recording.more, self._at_pause)
        for part in events:
            if not self._warming:
                yield replace(part, timestamp_ns=part.timestamp_ns - self._begin_ns)
        if self._warming:
            stats = self._hierarchy.stats()
            raise UsageError(
                "the requests end within the warm-up",
                where="--warmup",
                got=f"{recording.config.warmup}; {stats.requests:,} requests",
                hint="shorten it",
            )

        self.restarted()

    def restarted(self) -> Restarted | None:
        """Return what came of the restart; None where there was to be none."""
        return self._restart.restarted(self._since_begin) if self._restart else None

    def tally(self) -> Tally:
        """Return the events that were counted instead of being made, since the trace began."""
        tally = self._hierarchy.tally()
        if self._tally_before is None:
            return tally
        since = tally.since(self._tally_before)
        return replace(since, last_ns=since.last_ns - self._begin_ns)

    def stats(self) -> HierarchyStats:
        """Return the counts since the trace began."""
        return self._since_begin(self._hierarchy.stats())

    def _since_begin(self, stats: HierarchyStats) -> HierarchyStats:
        if self._before is None:
            return stats
        ended_ns = stats.prefill_end_ns - self._begin_ns
        return replace(stats.since(self._before), prefill_end_ns=ended_ns)


def _prefilled(recording: Recording) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return identity and tokens of each block that this node asks for and doesn't make itself."""
    twin = recording.again()
    spec = replace(
        twin.spec,
        tiers=tuple(
            replace(tier, capacity_bytes=UNLIMITED if tier.tier is Tier.NVME else 0)
            for tier in twin.spec.tiers
        ),
        prefill_ps=0,
        lookups=False,
        second_use=False,
    )
    hierarchy = Hierarchy(spec)
    chunks: dict[str, list[NDArray[np.int64]]] = {"key": [], "tokens": []}
    for part in hierarchy.events(twin.requests(), twin.more):
        wanted = (part.op == Op.WRITE) & (part.phase == Phase.PREFILL)
        chunks["key"].append(part.key[wanted])
        chunks["tokens"].append(part.tokens[wanted])
    keys = np.concatenate([np.zeros(0, np.int64), *chunks["key"]])
    tokens = np.concatenate([np.zeros(0, np.int64), *chunks["tokens"]])
    held, idents = hierarchy.held_idents(Tier.NVME)
    return idents[np.searchsorted(held, keys)], tokens
