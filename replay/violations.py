"""Checks from the times of a finished run that order was kept. Shares no code with the planner."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from kvtrace.schema import Op, Phase
from replay.loop import Action

if TYPE_CHECKING:
    from replay.loop import Outcome
    from replay.plan import Plan

_NEVER = -1


def count_violations(plan: Plan, outcome: Outcome) -> int:
    """Return how many ops were submitted before something they had to wait for had completed."""
    frame = _frame(plan, outcome)
    moving = frame.filter(pl.col("length") > 0)
    return (
        _exclusive(frame, ["lane", "key"])
        + _exclusive(moving, ["lane", "place"])
        + _transfers(frame)
        + _deletes(frame)
    )


def _frame(plan: Plan, outcome: Outcome) -> pl.DataFrame:
    times = outcome.times
    frame = pl.DataFrame(
        {
            "lane": plan.ops.lane,
            "tier": plan.tier,
            "key": plan.ops.key,
            "op": plan.op,
            "phase": plan.phase,
            "place": plan.ops.offset_bytes,
            "length": plan.ops.length_bytes,
            "moves": plan.ops.action != Action.NONE,
            "submit": times.submit_ns,
            "complete": times.complete_ns,
            "error": times.error,
        }
    )
    frame = frame.filter((pl.col("op") != Op.LOOKUP) & (pl.col("submit") != _NEVER))
    return frame.with_columns((pl.col("op") != Op.READ).alias("alone"))


def _exclusive(frame: pl.DataFrame, group: list[str]) -> int:
    """Within a group: a write or delete starts after all before it, a read after those."""
    complete = pl.col("complete")
    alone = pl.when("alone").then(complete).otherwise(_NEVER)
    before = frame.with_columns(
        complete.cum_max().shift(1).over(group).alias("all"),
        alone.cum_max().shift(1).over(group).alias("last"),
    )
    needed = pl.when("alone").then(pl.col("all")).otherwise(pl.col("last"))
    return before.filter(pl.col("submit") < needed).height


def _transfers(frame: pl.DataFrame) -> int:
    """Count writes that begin before the latest earlier evict or promote read of their key."""
    is_transfer = (pl.col("op") == Op.READ) & pl.col("phase").is_in([Phase.EVICT, Phase.PROMOTE])
    source = pl.when(is_transfer).then(pl.col("complete"))
    before = frame.with_columns(source.forward_fill().shift(1).over("key").alias("source"))
    late = (pl.col("op") == Op.WRITE) & (pl.col("submit") < pl.col("source"))
    return before.filter(late).height


def _deletes(frame: pl.DataFrame) -> int:
    """Count deletes that begin before the latest earlier evict write on a slower tier."""
    found = 0
    for tier in frame["tier"].unique().to_list():
        is_below = (
            (pl.col("op") == Op.WRITE) & (pl.col("phase") == Phase.EVICT) & (pl.col("tier") > tier)
        )
        below = pl.when(is_below).then(pl.col("complete"))
        before = frame.with_columns(below.forward_fill().shift(1).over("key").alias("below"))
        early = (pl.col("op") == Op.DELETE) & (pl.col("tier") == tier)
        found += before.filter(early & (pl.col("submit") < pl.col("below"))).height
    return found
