"""Output of `kvtrace record` for a finished recording, as text and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvtrace.cli.console import figures, plain_console
from kvtrace.placement.extents import Need
from kvtrace.recording.config import DEFAULT_DURATION_NS, RecordConfig
from kvtrace.recording.fitting import REQUESTS_MIN, Shrunk
from kvtrace.recording.pipeline import Recorded
from kvtrace.trace.header import SourceInfo
from kvtrace.trace.reader import open_trace
from kvtrace.trace.schema import Tier
from kvtrace.units import DAY_S, S_NS, format_bytes, format_count

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rich.table import Table


def summary(made: Recorded) -> dict[str, Any]:
    """Return the JSON of `record --json`."""
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
    """Return each tier's space needed, as JSON."""
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


def about_model(notes: Iterable[str]) -> list[str]:
    """Return notes on the model: unstated settings, replicated state."""
    return [f"model: {text}" for text in notes]


def about_source(info: SourceInfo | None) -> list[str]:
    """Say what of the requests was left out, isn't known or was made up."""
    source = info.model_dump() if info else {}
    dropped = source.get("dropped", {}).items()
    return [
        *(f"{count:,} requests left out: {reason}" for reason, count in dropped),
        *source.get("notes", ()),
        *(f"invented: {text}" for text in source.get("invented", ())),
    ]


def about_sample(sampled: Mapping[str, Any] | None) -> list[str]:
    """Say what `--scale-sessions` left or copied, and what that did to the reuse."""
    if not sampled:
        return []
    word = "of" if sampled["scale_sessions"] < 1 else "made of"
    return [
        f"sampled: {sampled['requests']:,} requests {word} {sampled['requests_before']:,}, by "
        f"whole {sampled['by']} (--scale-sessions {sampled['scale_sessions']:g}); ideal hit ratio "
        f"{sampled['ideal_prefix_hit_before']:.3f} before, {sampled['ideal_prefix_hit']:.3f} after"
    ]


def about_restart(counted: Mapping[str, Any]) -> list[str]:
    """Say what a restart cost, and what the tiers that it left gave back."""
    restart = counted.get("restart")
    if not restart:
        return []
    lost = ", ".join(
        f"{format_bytes(size)} of {tier}" for tier, size in restart["lost_bytes"].items()
    )
    at_s, again = restart["at_ns"] / S_NS, restart["requests_begun_again"]
    lines = [f"restart at {at_s:,g} s: {lost} lost, {again:,} requests begun again"]
    periods = {"before": "before", "first_minute": "in the next minute", "after": "in all after it"}
    for name, words in periods.items():
        period = restart[name]
        hits = ", ".join(f"{tier} {hit:.3f}" for tier, hit in period["hit_ratio"].items())
        lines.append(
            f"hit ratio {words}: {hits} (ideal {period['ideal_prefix_hit']:.3f}; "
            f"{period['requests']:,} requests)"
        )
    return lines


def about_size(counted: Mapping[str, Any]) -> list[str]:
    """Say how much smaller the node is than the one that was asked for, and what that changes."""
    shrunk = counted.get("shrunk")
    if not shrunk:
        return []
    by = Shrunk(shrunk["load_ratio"], shrunk["time_ratio"], shrunk["layers"], shrunk["of_layers"])
    if by.nothing:
        return ["the whole node fits unchanged"]
    notes = [f"smaller node: {by.text}"]
    if (of_whole := shrunk["whole"]) is not None:
        ratio = of_whole["read_write_ratio"]
        hits = ", ".join(f"{tier} {hit:.3f}" for tier, hit in of_whole["hit_ratio"].items())
        notes.append(
            f"the whole node: hit ratio {hits}; read:write of nvme "
            f"{'unknown' if ratio is None else f'{ratio:.2f}'}"
        )
    if counted["requests"] < REQUESTS_MIN:
        notes.append(f"{counted['requests']:,} requests are few: hit ratios vary by chance")
    return notes


def about_reads(made: Recorded) -> list[str]:
    """Say that tier nvme is never read, which no drive can be judged by."""
    cells = [cell for cell in made.header.totals.cells if cell.tier == Tier.NVME.label]
    if not made.header.statistics.get("shrunk") or any(cell.op == "read" for cell in cells):
        return []
    return ["tier nvme is written and never read: a replay can't measure a drive's reads"]


def _one_of(made: Recorded) -> int:
    """Return how many ranks the node has, if the rows are of one of them; else 0."""
    ranks = made.header.tensor_parallel or 1
    return ranks if made.header.ranks == "one" and ranks > 1 else 0


def _title(made: Recorded) -> str:
    ranks = _one_of(made)
    return f"{made.path}" + (f": the node, all {ranks} ranks" if ranks else "")


def _of_one(made: Recorded) -> str:
    return " of one rank" if _one_of(made) else ""


def _unlimited(made: Recorded) -> list[str]:
    """Say of a tier that never deletes how much the node writes to it in a day."""
    totals = made.header.totals
    notes = []
    for info in made.header.tiers:
        written = info.occupancy_factor * sum(
            c.bytes for c in totals.cells if c.tier == info.name and c.op == "write"
        )
        if info.capacity_bytes is None and written and totals.duration_ns:
            per_day = written * DAY_S * S_NS / totals.duration_ns
            notes.append(
                f"{info.name} is unlimited: nothing is deleted from it, "
                f"{format_bytes(per_day)} are written per day (mean of the whole trace)"
            )
    return notes


def _service(counted: dict[str, Any]) -> list[str]:
    """Return lines on prefill's load, requests' waits and first-token times."""
    served = counted.get("service")
    if served is None:
        return []
    lines = []
    if "prefill_tokens" in served:
        first, wait = served["first_token_ns"], served["prefill_wait_ns"]
        lines.append(
            f"prefill of a node: {served['prefill_tokens_per_s']:,.0f} tokens/s, busy "
            f"{served['prefill_busy_ratio']:.0%}; first token after {_seconds(first)}, of it "
            f"queued {_seconds(wait)} (P50, P90, P99)"
        )
    if served.get("decode_wait_ns_mean"):
        mean_s = served["decode_wait_ns_mean"] / S_NS
        lines.append(f"waiting for a place in the batch: {mean_s:.1f} s on average")
    return lines


def _seconds(percentiles: dict[str, int | None]) -> str:
    each = ("-" if ns is None else f"{ns / S_NS:,.1f}" for ns in percentiles.values())
    return ", ".join(each) + " s"


def _tiers(made: Recorded) -> Table:
    """Return a row of figures per tier."""
    totals, counted = made.header.totals, made.header.statistics
    factors = {info.name: info.occupancy_factor for info in made.header.tiers}
    names = ("tier", "hit ratio", "ops", "read", "written", "read:write", "peak held")
    table = figures(names, left=["tier"], title=_title(made))
    for tier in Tier:
        cells = [cell for cell in totals.cells if cell.tier == tier.label]
        if not cells:
            continue
        factor = factors.get(tier.label, 1.0)
        moved = {op: factor * sum(c.bytes for c in cells if c.op == op) for op in ("read", "write")}
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
    return table


def _show_vectors(made: Recorded, wall_s: float) -> None:
    """Print the summary of queries of a vector index."""
    console, totals = plain_console(), made.header.totals
    search = made.header.statistics["vector_search"]
    virtual_s = totals.duration_ns / S_NS
    lines = [
        f"{made.path}: {totals.rows:,} rows, {format_bytes(totals.bytes)} in {virtual_s:,.3f} s of "
        "virtual time",
        f"{search['queries']:,} queries of {search['reads_per_query_mean']:.1f} reads in "
        f"{search['rounds_per_query_mean']:.1f} rounds (reads: P50 {search['reads_p50']:.0f}, P90 "
        f"{search['reads_p90']:.0f}, P99 {search['reads_p99']:.0f})",
        f"index of {format_bytes(search['index_bytes'])}: nodes of {search['node_bytes']:,} B, "
        f"reads of {search['read_bytes']:,} B",
        *(f"{tier.label}: {need.text}" for tier, need in (made.needs or {}).items()),
        *about_source(made.header.source),
        "replay it with --mode closed: a round begins when the reads of the one before it are done",
        f"made in {wall_s:.1f} s ({totals.rows / max(wall_s, 1e-9):,.0f} rows/s)",
    ]
    for line in lines:
        console.print(line, highlight=False)


def show(made: Recorded, config: RecordConfig, wall_s: float) -> None:
    """Print the summary for people."""
    console, totals, counted = plain_console(), made.header.totals, made.header.statistics
    if "vector_search" in counted:
        _show_vectors(made, wall_s)
        return
    console.print(_tiers(made))
    virtual_s = totals.duration_ns / S_NS
    console.print(
        f"{totals.rows:,} rows{_of_one(made)}, {counted['objects']:,} objects, "
        f"{format_bytes(totals.bytes)} in "
        f"{virtual_s:,.1f} s of virtual time ({totals.rows / max(virtual_s, 1e-9):,.0f} ops/s)",
        highlight=False,
    )
    console.print(
        f"{counted['requests']:,} requests, {counted['blocks']:,} blocks asked for",
        highlight=False,
    )
    console.print(
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
    sample = (
        *about_restart(counted),
        *about_size(counted),
        *about_reads(made),
        *about_sample(counted.get("sampled")),
    )
    about = (
        *about_model((made.header.model or {}).get("notes", ())),
        *about_source(made.header.source),
    )
    for text in (*_service(counted), *sample, *about, *_unlimited(made)):
        console.print(text, highlight=False)
    if made.header.dropped_rows:
        console.print(
            f"{made.header.dropped_rows:,} rows have no word in the CSV and were left out",
            highlight=False,
        )
    console.print(
        f"made in {wall_s:.1f} s ({totals.rows / max(wall_s, 1e-9):,.0f} rows/s)", highlight=False
    )
