"""What a trace amounts to: ops and bytes, sizes, working set, read:write, writes per day."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from kvtrace.schema import Op, Tier
from kvtrace.units import S_NS

if TYPE_CHECKING:
    from kvtrace.reader import Trace

DAY_S = 86_400


def summarise(trace: Trace, *, drive_bytes: int | None = None) -> dict[str, Any]:
    """Return the figures of `kvtrace info --json`, computed from the rows and the header.

    `drive_bytes`: size of a drive, for drive writes per day on nvme.
    """
    header = trace.header
    rows = trace.lazy().with_columns(pl.col("tier", "phase", "op").cast(pl.String))
    cells = (
        rows.group_by("tier", "phase", "op")
        .agg(
            ops=pl.len(),
            bytes=pl.col("size").sum(),
            size_min=pl.col("size").min(),
            size_max=pl.col("size").max(),
        )
        .collect(engine="streaming")
    )
    objects = (
        rows.group_by("tier").agg(objects=pl.col("key").n_unique()).collect(engine="streaming")
    )
    duration_ns = rows.select(pl.col("timestamp").max()).collect().item() or 0
    ordered = sorted(cells.to_dicts(), key=_order)
    return {
        "path": str(trace.path),
        "rows": trace.rows,
        "objects": rows.select(pl.col("key").n_unique()).collect(engine="streaming").item(),
        "bytes": sum(cell["bytes"] for cell in ordered),
        "duration_s": duration_ns / S_NS,
        "tiers": {
            tier.label: _tier(tier.label, ordered, objects, duration_ns, drive_bytes)
            for tier in Tier
            if any(cell["tier"] == tier.label for cell in ordered)
        },
        "cells": ordered,
        **{name: header.statistics.get(name) for name in _FROM_HEADER},
        "sha256": trace.sha256(),
        "content_sha256": header.content_sha256,
        "header": header.model_dump(mode="json"),
    }


_FROM_HEADER = ("requests", "blocks", "unique_blocks", "ideal_prefix_hit", "hit_ratio")


def _order(cell: dict[str, Any]) -> tuple[int, str, int]:
    return Tier[cell["tier"].upper()], cell["phase"], Op[cell["op"].upper()]


def _tier(
    name: str,
    cells: list[dict[str, Any]],
    objects: pl.DataFrame,
    duration_ns: int,
    drive_bytes: int | None,
) -> dict[str, Any]:
    own = [cell for cell in cells if cell["tier"] == name]
    moved = {op: sum(c["bytes"] for c in own if c["op"] == op) for op in ("read", "write")}
    days = duration_ns / S_NS / DAY_S
    per_day = moved["write"] / days if days else None
    return {
        "ops": sum(cell["ops"] for cell in own),
        "objects": objects.filter(pl.col("tier") == name)["objects"].item(),
        "read_bytes": moved["read"],
        "write_bytes": moved["write"],
        "read_write_ratio": moved["read"] / moved["write"] if moved["write"] else None,
        "write_bytes_per_day": per_day,
        "drive_writes_per_day": (
            per_day / drive_bytes
            if per_day is not None and drive_bytes and name == "nvme"
            else None
        ),
    }
