"""Runs one workload under every combination of options and says what each comes to."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from kvtrace.breakeven.answer import finite
from kvtrace.errors import UsageError
from kvtrace.trace.schema import Op, Tier
from kvtrace.units import DAY_S, S_NS, UNLIMITED
from kvtrace.whatif.worth import Worth

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from kvtrace.breakeven.answer import Workload
    from kvtrace.hierarchy.events import HierarchyStats
    from kvtrace.hierarchy.spec import HierarchySpec
    from kvtrace.whatif.counting import Counter
    from kvtrace.whatif.references import References
    from kvtrace.whatif.workload import Options, Run
    from kvtrace.whatif.workload import Workload as Requests
    from kvtrace.whatif.worth import Question


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one combination of options comes to. `optimal`: hit ratio of the ceiling, if known.

    Bytes are the node's: those of ranks that a trace would leave out count too. `factors`: the
    node's bytes for each that a trace's rows would move, per tier. `worth`: its loads against
    recomputing, where that was asked and a tier below gpu is read.
    """

    options: Options
    stats: HierarchyStats
    counter: Counter
    spec: HierarchySpec
    factors: Mapping[Tier, float]
    optimal: float | None
    worth: Workload | None = None

    @property
    def tiers(self) -> list[Tier]:
        """The tiers that are there."""
        return [tier.tier for tier in self.spec.tiers if tier.capacity_bytes]

    def hit_ratio(self, tier: Tier) -> float:
        """Return the share of the blocks asked for that are read from `tier`."""
        return self.stats.hits[tier] / max(1, self.stats.blocks)

    @property
    def total_hit_ratio(self) -> float:
        """Share of the blocks asked for that some tier has."""
        return sum(self.hit_ratio(tier) for tier in self.tiers)

    def node_bytes(self, tier: Tier, op: Op) -> int:
        """Return the bytes that `op` moves on `tier`, on all ranks of the node."""
        return round(self.counter.bytes(tier, op) * self.factors[tier])

    def read_write_ratio(self, tier: Tier) -> float | None:
        """Return bytes read ÷ bytes written; None where nothing is written."""
        written = self.counter.bytes(tier, Op.WRITE)
        return self.counter.bytes(tier, Op.READ) / written if written else None

    @property
    def nvme_bytes_per_day(self) -> float | None:
        """Bytes that the node writes to nvme in a day, at the mean rate of the whole run."""
        days = self.counter.duration_ns / S_NS / DAY_S
        written = self.node_bytes(Tier.NVME, Op.WRITE)
        return written / days if days and Tier.NVME in self.tiers else None

    @property
    def drive_writes_per_day(self) -> float | None:
        """How often a day nvme is written whole; None without a limit."""
        capacity = self.spec.tiers[Tier.NVME].capacity_bytes
        per_day = self.nvme_bytes_per_day
        return None if per_day is None or capacity >= UNLIMITED else per_day / capacity

    def document(self) -> dict[str, Any]:
        """Return the figures as JSON has them."""
        stats, blocks = self.stats, max(1, self.stats.blocks)
        return {
            "options": self.options,
            "requests": stats.requests,
            "blocks": stats.blocks,
            "hit_ratio": {tier.label: self.hit_ratio(tier) for tier in self.tiers},
            "total_hit_ratio": self.total_hit_ratio,
            "token_hit_ratio": stats.hit_tokens / max(1, stats.prompt_tokens),
            "ideal_prefix_hit": stats.ideal_hits / blocks,
            "optimal_hit_ratio": self.optimal,
            "duration_s": self.counter.duration_ns / S_NS,
            "cells": [cell.model_dump() for cell in self.counter.cells()],
            "tiers": {tier.label: self._of_tier(tier) for tier in self.tiers},
            "nvme_write_bytes_per_day": self.nvme_bytes_per_day,
            "drive_writes_per_day": self.drive_writes_per_day,
        } | ({} if self.worth is None else {"breakeven": finite(self.worth.document())})

    def _of_tier(self, tier: Tier) -> dict[str, Any]:
        capacity = self.spec.tiers[tier].capacity_bytes
        return {
            "capacity_bytes": None if capacity >= UNLIMITED else capacity,
            "eviction": self.spec.tiers[tier].eviction,
            "read_bytes": self.node_bytes(tier, Op.READ),
            "write_bytes": self.node_bytes(tier, Op.WRITE),
            "read_write_ratio": self.read_write_ratio(tier),
        }

    def record(self) -> dict[str, Any]:
        """Return the figures as a flat row of a table, every tier in it."""
        row: dict[str, Any] = dict(self.options)
        row |= {
            "hit_ratio": self.total_hit_ratio,
            "optimal_hit_ratio": self.optimal,
            "ideal_prefix_hit": self.stats.ideal_hits / max(1, self.stats.blocks),
        }
        for tier in Tier:
            has_tier = tier in self.tiers
            row[f"{tier.label}_hit_ratio"] = self.hit_ratio(tier) if has_tier else None
            for op in (Op.READ, Op.WRITE):
                row[f"{tier.label}_{op.label}_bytes"] = (
                    self.node_bytes(tier, op) if has_tier else None
                )
        row |= {
            "nvme_read_write_ratio": self.read_write_ratio(Tier.NVME),
            "nvme_write_bytes_per_day": self.nvme_bytes_per_day,
            "drive_writes_per_day": self.drive_writes_per_day,
            "duration_s": self.counter.duration_ns / S_NS,
        }
        return row | worth_figures(self.worth)


def worth_figures(worth: Workload | None) -> dict[str, Any]:
    """Return the figures of loads against recomputing that a table has; {} without any."""
    if worth is None:
        return {}
    document = finite(worth.document())
    return {
        "breakeven_tier": document["tier"],
        "loads": document["requests"],
        "needed_bytes_per_s_p50": document["needed_bytes_per_s"]["p50"],
        "flip_bytes_per_s": document["flip_bytes_per_s"],
        "recomputed_gpu_s": document["recomputed_gpu_s"],
        **{name: document[name] for name in ("gpu_s_saved", "gpu_s_wasted") if name in document},
    }


def combinations(choices: Mapping[str, Sequence[str]]) -> list[Options]:
    """Return every combination of one value per key, the last key changing fastest."""
    return [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]


def outcomes(
    workload: Requests,
    options: Sequence[Options],
    references: References | None,
    question: Question | None = None,
) -> Iterator[Outcome]:
    """Yield what each combination of options comes to. Raises UsageError where nothing happens."""
    for each in options:
        run = workload.run(each, every=question is not None)
        worth = None if question is None else Worth(question)
        for events in run.events():
            run.counter.add(events)
            if worth is not None:
                worth.add(events)
        run.counter.add_tally(run.tally())
        if run.counter.rows == 0:
            raise UsageError(
                "nothing happens", got=f"{run.stats().requests} requests, 0 rows",
                accepted="requests with at least one full block",
                hint="lengthen --duration or make --block-tokens smaller",
            )  # fmt: skip
        optimal = None if references is None else references.optimal_ratio(_blocks(run, references))
        yield Outcome(
            each, run.stats(), run.counter, run.spec, run.factors, optimal,
            None if worth is None else worth.answer(run),
        )  # fmt: skip


def _blocks(run: Run, references: References) -> int:
    """Return how many blocks all tiers hold together; of turns, of their mean length."""
    tokens = run.block_tokens or references.mean_tokens
    held = 0
    for tier in run.spec.tiers:
        if tier.capacity_bytes >= UNLIMITED:
            return UNLIMITED
        block_bytes = max(1, tokens * tier.token_bytes + tier.block_bytes)
        held += int(tier.limit_bytes(tier.high_watermark_ratio) // block_bytes)
    return held
