"""Totals of a trace: ops and bytes, sizes, working set, read:write, writes per day."""

from __future__ import annotations

from errno import ECANCELED, EEXIST, ENOENT
from typing import TYPE_CHECKING, Any

import polars as pl

from kvtrace.errors import TraceError
from kvtrace.placement.summary import needs_of
from kvtrace.trace.schema import MAX_SIZE_BYTES, MAX_TIME_NS, MOVED_NOTHING, Op, Phase, Tier, Word
from kvtrace.units import DAY_S, S_NS

if TYPE_CHECKING:
    from kvtrace.placement.extents import Need
    from kvtrace.trace.reader import Trace


def summarise(
    trace: Trace, *, drive_bytes: int | None = None, space: bool = True
) -> dict[str, Any]:
    """Return the figures of `kvtrace info --json`, computed from the rows and the header.

    `drive_bytes`: size of a drive, for drive writes per day on nvme. Rates per day are of the whole
    node: where the rows are of one rank, or show once what all ranks have, by the tiers' factors.
    `space`: whether to find out,
    row by row, what each tier needs of a target; it is null of a trace that reads what it deleted.
    """
    header = trace.header
    rows = trace.lazy().with_columns(pl.col("tier", "phase", "op").cast(pl.String))
    moved = pl.col("size")
    if "error" in trace.columns:
        moved = moved.filter(~pl.col("error").is_in(MOVED_NOTHING).fill_null(value=False))
    cells: Any = rows.group_by("tier", "phase", "op").agg(
        ops=pl.len(),
        bytes=moved.sum(),
        size_min=pl.col("size").min(),
        size_max=pl.col("size").max(),
    )
    cells = trace.collect(cells, streaming=True)
    times = trace.collect(rows.select(_TIMES))
    _check(trace, cells, times)
    objects = trace.collect(
        rows.group_by("tier").agg(objects=pl.col("key").n_unique()), streaming=True
    )
    total = trace.collect(rows.select(pl.col("key").n_unique()), streaming=True).item()
    duration_ns = times["last"].item() or 0
    factors = {info.name: info.occupancy_factor for info in header.tiers}
    ordered = sorted(cells.to_dicts(), key=_order)
    outcomes = _outcomes(trace, rows)
    needs = _needs(trace) if space else {}
    return {
        "path": str(trace.path),
        "rows": trace.rows,
        "objects": total,
        "bytes": sum(cell["bytes"] for cell in ordered),
        "duration_s": duration_ns / S_NS,
        "tiers": {
            tier.label: _tier(
                tier.label, ordered, objects, duration_ns, drive_bytes, factors.get(tier.label, 1.0)
            )
            | _space(needs.get(tier))
            | _lookups(trace, tier.label, ordered, outcomes)
            for tier in Tier
            if any(cell["tier"] == tier.label for cell in ordered)
        },
        "cells": ordered,
        "outcomes": outcomes,
        **{name: header.statistics.get(name) for name in _FROM_HEADER},
        "sha256": trace.sha256(),
        "content_sha256": header.content_sha256,
        "header": header.model_dump(mode="json"),
    }


_OUTCOMES = {ENOENT: "missed", EEXIST: "skipped", ECANCELED: "in flight at the end"}


def _outcomes(trace: Trace, rows: pl.LazyFrame) -> list[dict[str, Any]]:
    """Return tier, op, outcome, count and bytes of ops that moved nothing, or failed."""
    if "error" not in trace.columns:
        return []
    counted = rows.filter(pl.col("error") != 0).group_by("tier", "op", "error")
    frame = trace.collect(counted.agg(ops=pl.len(), bytes=pl.col("size").sum()), streaming=True)
    made = [each | {"outcome": _OUTCOMES.get(each["error"], "failed")} for each in frame.to_dicts()]
    return sorted(made, key=lambda each: (*_order(each | {"phase": ""}), each["error"]))


def _lookups(
    trace: Trace, tier: str, cells: list[dict[str, Any]], outcomes: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return a tier's look-ups, and which part hit; None where outcomes weren't recorded."""

    def counted(rows: list[dict[str, Any]]) -> int:
        return sum(row["ops"] for row in rows if (row["tier"], row["op"]) == (tier, "lookup"))

    asked = counted(cells)
    known = asked and "error" in trace.columns and "replay" not in trace.header.statistics
    return {
        "lookups": asked,
        "lookup_hit_ratio": 1 - counted(outcomes) / asked if known else None,
    }


def _needs(trace: Trace) -> dict[Tier, Need]:
    try:
        return needs_of(trace)
    except TraceError:
        return {}


def _space(need: Need | None) -> dict[str, Any]:
    """Return live set and space needed of a tier; null where they aren't known."""
    return {
        "live_bytes_max": None if need is None else need.live_bytes,
        "live_objects_max": None if need is None else need.live_objects_max,
        "space_needed_bytes": None if need is None else need.size_bytes,
        "space": None if need is None else need.text,
    }


_TIMES = (
    pl.col("timestamp").min().alias("first"),
    pl.col("timestamp").max().alias("last"),
    pl.any_horizontal(pl.col("timestamp", "size", "key").is_null()).any().alias("nulls"),
)
_WORDS: tuple[tuple[str, type[Word]], ...] = (("tier", Tier), ("phase", Phase), ("op", Op))


def _check(trace: Trace, cells: pl.DataFrame, times: pl.DataFrame) -> None:
    """Raise TraceError, with the row, if some row isn't one of the format; few rows are read."""
    known = all(
        set(cells[name].to_list()) <= {word.label for word in words} for name, words in _WORDS
    )
    first, last, nulls = times.row(0)
    ranges = trace.rows == 0 or ((first or 0) >= 0 and (last or 0) <= MAX_TIME_NS)
    sizes = (cells["size_max"].max() or 0) <= MAX_SIZE_BYTES  # type: ignore[operator]
    if not (known and ranges and sizes) or nulls:
        trace.check_values()


_FROM_HEADER = ("requests", "blocks", "unique_blocks", "ideal_prefix_hit", "hit_ratio")


def _order(cell: dict[str, Any]) -> tuple[int, str, int]:
    return Tier[cell["tier"].upper()], cell["phase"], Op[cell["op"].upper()]


def _tier(
    name: str,
    cells: list[dict[str, Any]],
    objects: pl.DataFrame,
    duration_ns: int,
    drive_bytes: int | None,
    node_factor: float,
) -> dict[str, Any]:
    own = [cell for cell in cells if cell["tier"] == name]
    moved = {op: sum(c["bytes"] for c in own if c["op"] == op) for op in ("read", "write")}
    days = duration_ns / S_NS / DAY_S
    per_day = moved["write"] * node_factor / days if days else None
    return {
        "ops": sum(cell["ops"] for cell in own),
        "objects": objects.filter(pl.col("tier") == name)["objects"].item(),
        "read_bytes": moved["read"],
        "write_bytes": moved["write"],
        "node_factor": node_factor,
        "read_write_ratio": moved["read"] / moved["write"] if moved["write"] else None,
        "write_bytes_per_day": per_day,
        "drive_writes_per_day": (
            per_day / drive_bytes
            if per_day is not None and drive_bytes and name == "nvme"
            else None
        ),
    }
