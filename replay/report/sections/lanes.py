"""Sections of one executed tier, and of the latencies of all."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kvtrace.units import format_bytes, format_count, format_duration_ns, format_rate
from replay.measure.figures import GroupDocument
from replay.report.sections.parts import (
    Column,
    Figure,
    Kind,
    Row,
    Section,
    facts,
    time_cells,
    times,
)
from replay.report.support.cells import FEW_NOTE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from replay.measure.figures import LaneDocument
    from replay.result.document import ResultDocument

LATENCY_NOTE = (
    "Service time: from submit to completion. Response time: from when the op was due, the wait "
    "for a turn included."
)
_LATENESS_NOTE = (
    "Time from when an op was {base} until its submit: dependency: for predecessors; slot: for a "
    "queue slot; burst: for ops due at the same time; host: kvtrace's own."
)
_WAITS = {
    "dependency_wait_ns": "dependency",
    "slot_wait_ns": "slot",
    "burst_wait_ns": "burst",
    "host_lateness_ns": "host",
}


def _flight(lane: LaneDocument, kind: str) -> str | None:
    flight = None if lane.in_flight is None else getattr(lane.in_flight, kind)
    return None if flight is None else f"{flight.mean:.1f} mean, {flight.max:,} max"


def _recorded(lane: LaneDocument) -> str | None:
    kept = _flight(lane, "recorded")
    recorded = None if lane.in_flight is None else lane.in_flight.recorded
    if recorded is None or recorded.bytes_per_s is None:
        return kept
    return f"{kept}, {format_rate(recorded.bytes_per_s)}"


def depth(lane: LaneDocument, result: ResultDocument) -> str:
    """Return what the recorded engine and this replay kept in flight and moved; "" if unknown.

    A replay whose times are the trace's own doesn't show what more would give: it ends with how to.
    """
    if lane.in_flight is None or lane.in_flight.recorded is None:
        return ""
    recorded = lane.in_flight.recorded
    engine = _moved(f"{_mean(recorded.mean)} ops in flight", recorded.bytes_per_s)
    replayed = _moved(_mean(lane.in_flight.ops.mean), lane.throughput_bytes_per_s)
    deeper = result.config is not None and result.config.mode != "max"
    hint = " (--mode max for more)" if deeper else ""
    return f"the engine kept {engine}; this replay kept {replayed}{hint}"


def _mean(depth: float) -> str:
    return "under 0.1" if 0 < depth < 0.05 else f"{depth:.1f}"


def _moved(kept: str, bytes_per_s: float | None) -> str:
    return kept if bytes_per_s is None else f"{kept} and moved {format_rate(bytes_per_s)}"


def _device(lane: LaneDocument) -> str | None:
    """Return what the device moved and had in flight, in few words."""
    parts = []
    if lane.device is not None and lane.device.device_bytes_per_byte_asked is not None:
        parts.append(f"moved {lane.device.device_bytes_per_byte_asked:.2f} bytes per byte asked")
    series = lane.device_series
    if series is not None and sum(series.width_s) > 0:
        seconds = sum(series.width_s)
        parts.append(f"in flight {sum(series.queue_ms) / 1000 / seconds:.1f} mean")
        parts.append(f"busy {sum(series.busy_ms) / 1000 / seconds:.0%}")
        discards = sum(series.discard_ios)
        if discards:
            parts.append(f"{format_count(discards)} discards")
    return ", ".join(parts) or None


def _submit(lane: LaneDocument) -> str | None:
    """Return what an io_uring lane paid for entering the kernel."""
    counters = lane.counters
    if counters is None or not counters.timed_submits or not lane.ops:
        return None
    per_submit_ns = counters.timed_submit_ns / counters.timed_submits
    return (
        f"{format_duration_ns(round(per_submit_ns))} per io_uring_enter that submits, "
        f"{format_count(counters.enter_calls)} enters"
    )


def _on_schedule(lane: LaneDocument) -> str | None:
    ratio = lane.on_schedule_ratio
    return None if ratio is None else f"{ratio:.1%} of ops within 1 ms"


def _window(lane: LaneDocument) -> str:
    return f"{lane.window_s:.2f} s, then {lane.drain_s:.3f} s to the last completion"


FIGURES: tuple[Figure, ...] = (
    Figure("target", "title"),
    Figure("window", "window_s", of=_window, column=True),
    Figure("throughput", "throughput_bytes_per_s", Kind.RATE, column=True),
    Figure("of it read", "read_bytes_per_s", Kind.RATE, column=True),
    Figure("of it write", "write_bytes_per_s", Kind.RATE, column=True),
    Figure("reads and writes", "ops_per_s", Kind.PER_S, column=True),
    Figure("KV tokens", "kv_tokens_per_s", Kind.PER_S),
    Figure("ops in flight", "in_flight", of=lambda lane: _flight(lane, "ops")),
    Figure("I/Os in flight", "in_flight", of=lambda lane: _flight(lane, "ios")),
    Figure("when recorded", "in_flight", of=_recorded),
    Figure("errors", "errors", Kind.COUNT),
    Figure("on schedule", "on_schedule_ratio", of=_on_schedule),
    Figure("device", "device", of=_device),
    Figure("submit", "counters", of=_submit),
)
"""Figures of an executed tier, one row each, in this order."""


def title_of(lane: LaneDocument) -> str:
    """Return the title of a tier's section."""
    return f"Tier {lane.tier}"


def sections(lane: LaneDocument, result: ResultDocument) -> Iterator[Section]:
    """Yield a tier's figures, how late its ops were submitted and why, and its single I/Os."""
    title = title_of(lane)
    kept = depth(lane, result)
    notes = (f"{kept[0].upper()}{kept[1:]}.",) if kept else ()
    yield replace(facts(title, FIGURES, lane), notes=notes)
    if lane.lateness_ns is not None:
        scheduled = lane.response_ns is not None
        parts = {"total": lane.lateness_ns}
        parts |= {name: getattr(lane.lateness_ns, key) for key, name in _WAITS.items()}
        yield Section(
            "Lateness" if scheduled else "Since ready",
            times("part"),
            tuple(Row((name, *time_cells(part))) for name, part in parts.items() if part),
            (_LATENESS_NOTE.format(base="due" if scheduled else "ready (nothing is due here)"),),
            under=title,
        )
    if lane.io_ns:
        rows = tuple(
            Row((format_bytes(group.size_class_bytes), *time_cells(group))) for group in lane.io_ns
        )
        yield Section("Single I/Os", times("size, from"), rows, under=title, detail=True)


def latencies(document: ResultDocument) -> Section:
    """Return a row per tier or group and kind of time; errors have a column where there are some.

    Groups by size and by QoS are detail.
    """
    by = [*document.groups_by_size, *document.groups_by_qos]
    failed = any(group.errors for group in [*document.groups, *by])
    columns = (
        Column("op"),
        Column("of", detail=True),
        Column("time", detail=True),
        Column("ops", Kind.COUNT, detail=True),
        Column("bytes", Kind.BYTES, detail=True),
        *([Column("errors", Kind.COUNT, detail=True)] if failed else []),
        *times(),
    )
    of: list[LaneDocument | GroupDocument] = []
    for lane in document.lanes:
        of += [lane, *document.groups_of(lane)]
    rows = [row for each in [*of, *by] for row in _rows(each, failed=failed)]
    return Section("Latencies", columns, tuple(rows), (LATENCY_NOTE, FEW_NOTE))


def _rows(of: LaneDocument | GroupDocument, *, failed: bool) -> Iterator[Row]:
    """Yield the rows of a whole tier or of a group: one per kind of time, one if there is none."""
    name, part, detail = f"{of.tier} all", "all", False
    if isinstance(of, GroupDocument):
        name, part = f"{of.tier} {of.phase} {of.op}", _part(of)
        detail = part != "all"
    counts = [of.ops, of.bytes, *([of.errors] if failed else [])]
    kinds = (("service", of.service_ns), ("response", of.response_ns))
    known = [(word, each) for word, each in kinds if each is not None and each.count]
    for at, (word, percentiles) in enumerate(known):
        cells = (name, part, word, *counts, *time_cells(percentiles))
        yield Row(cells, short=f"  {word}" if at else name, detail=detail)
    if not known:
        nothing = [None] * (len(times()) - 1)
        yield Row((name, part, "none", *counts, *nothing, of.ops), detail=detail)


def _part(group: GroupDocument) -> str:
    """Return what of the tier × phase × op a group is: a class of urgency, a size, all of it."""
    size = group.size_class_bytes
    if group.qos is not None:
        return group.qos
    return "all" if size is None else f"from {format_bytes(size).replace('.00', '')}"
