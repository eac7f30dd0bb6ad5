"""What `kvtrace record` says of a finished recording, for people and as JSON."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from kvtrace.cli.console import plain_console
from kvtrace.config import RecordConfig
from kvtrace.pipeline import Recorded
from kvtrace.placement.extents import Need
from kvtrace.reader import open_trace
from kvtrace.recording import DEFAULT_DURATION_NS
from kvtrace.schema import Tier
from kvtrace.stats import DAY_S
from kvtrace.units import S_NS, format_bytes, format_count


def summary(made: Recorded) -> dict[str, Any]:
    """Return what `record --json` prints."""
    totals, counted = made.header.totals, made.header.statistics
    return {
        "path": str(made.path),
        "rows": totals.rows,
        "objects": counted["objects"],
        "bytes": totals.bytes,
        "duration_s": totals.duration_ns / S_NS,
        "cells": [cell.model_dump() for cell in totals.cells],
        **{name: value for name, value in counted.items() if name != "objects"},
        "source": None if made.header.source is None else made.header.source.model_dump(),
        "dropped_rows": made.header.dropped_rows,
        "sha256": _sha256(made) if made.header.content_sha256 else None,
        "content_sha256": made.header.content_sha256,
        **({} if made.needs is None else {"space": space_document(made.needs)}),
    }


def space_document(needs: dict[Tier, Need]) -> dict[str, dict[str, int]]:
    """Return what each tier needs of a target, as JSON."""
    return {
        tier.label: {
            "live_bytes_max": need.live_bytes,
            "live_objects_max": need.live_objects_max,
            "space_needed_bytes": need.size_bytes,
        }
        for tier, need in needs.items()
    }


def _sha256(made: Recorded) -> str:
    with open_trace(made.path) as trace:
        return trace.sha256()


def _about_source(made: Recorded) -> list[str]:
    """Say what of the requests was left out, isn't known or was made up."""
    source = made.header.source.model_dump() if made.header.source else {}
    dropped = source.get("dropped", {}).items()
    return [
        *(f"{count:,} requests left out: {reason}" for reason, count in dropped),
        *source.get("notes", ()),
        *(f"invented: {text}" for text in source.get("invented", ())),
    ]


def _unlimited(made: Recorded) -> list[str]:
    """Say of a tier that never deletes how much is written to it in a day."""
    totals = made.header.totals
    told = []
    for info in made.header.tiers:
        written = sum(c.bytes for c in totals.cells if c.tier == info.name and c.op == "write")
        if info.capacity_bytes is None and written and totals.duration_ns:
            per_day = written * DAY_S * S_NS / totals.duration_ns
            told.append(
                f"{info.name} is unlimited: nothing is deleted from it, "
                f"{format_bytes(per_day)} are written per day"
            )
    return told


def show(made: Recorded, config: RecordConfig, wall_s: float) -> None:
    """Print the summary for people."""
    console, totals, counted = plain_console(), made.header.totals, made.header.statistics
    table = Table(title=f"{made.path}", title_justify="left", title_style="bold")
    for name in ("tier", "hit ratio", "ops", "read", "written", "read:write", "peak held"):
        table.add_column(name, justify="left" if name == "tier" else "right")
    for tier in Tier:
        cells = [cell for cell in totals.cells if cell.tier == tier.label]
        if not cells:
            continue
        moved = {op: sum(c.bytes for c in cells if c.op == op) for op in ("read", "write")}
        ratio = f"{moved['read'] / moved['write']:.2f}" if moved["write"] else "-"
        table.add_row(
            tier.label,
            f"{counted['hit_ratio'].get(tier.label, 0):.3f}",
            format_count(sum(cell.ops for cell in cells)),
            format_bytes(moved["read"]),
            format_bytes(moved["write"]),
            ratio,
            format_bytes(counted["peak_bytes"].get(tier.label, 0)),
        )
    console.print(table)
    virtual_s = totals.duration_ns / S_NS
    console.print(
        f"{totals.rows:,} rows, {counted['objects']:,} objects, {format_bytes(totals.bytes)} in "
        f"{virtual_s:,.1f} s of virtual time ({totals.rows / max(virtual_s, 1e-9):,.0f} ops/s)",
        highlight=False,
    )
    console.print(
        f"{counted['requests']:,} requests, {counted['blocks']:,} blocks asked for, "
        f"hit ratio {sum(counted['hit_ratio'].values()):.3f} "
        f"(ideal {counted['ideal_prefix_hit']:.3f}), by tokens {counted['token_hit_ratio']:.3f}",
        highlight=False,
    )
    if not config.duration and not config.requests and config.source.name == "synthetic":
        console.print(
            f"arrivals of {DEFAULT_DURATION_NS / S_NS:.0f} s (--duration, --requests)",
            highlight=False,
        )
    for tier, need in (made.needs or {}).items():
        console.print(f"{tier.label}: {need.text}", highlight=False)
    for text in (*_about_source(made), *_unlimited(made)):
        console.print(text, highlight=False)
    if made.header.dropped_rows:
        console.print(
            f"{made.header.dropped_rows:,} rows have no word in the CSV and were left out",
            highlight=False,
        )
    console.print(
        f"made in {wall_s:.1f} s ({totals.rows / max(wall_s, 1e-9):,.0f} rows/s)", highlight=False
    )
