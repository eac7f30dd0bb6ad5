"""INVALID reasons: one check per reason, each with its figure and remedy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvtrace.units import MIB, MS_NS, US_NS, format_bytes, format_count, format_duration_ns
from replay.result.reason import Reason

if TYPE_CHECKING:
    from replay.result.findings import Findings

HOST_LATENESS_NS = 100 * US_NS
HOST_LATENESS_RATIO = 0.01
_MORE_CPU = "give the loop more CPU (--threads, --spin on, fewer busy processes)"
SHARED_RATIO = 0.05
SHARED_BYTES = 64 * MIB
RUN_TIME_RATIO = 0.99
"""Fraction of its run time that a run must last."""
SUSPENDED_NS = 10 * MS_NS
CODES = (
    "failed_ops",
    "verify_failed",
    "host_lateness",
    "unwritten",
    "tier_not_executed",
    "short_window",
    "trace_ended",
    "nothing_measured",
    "interrupted",
    "target_changed",
    "clock_suspended",
    "page_cache",
    "device_shared",
    "order_violated",
    "planner_stall",
    "payload_repeated",
    "counts_differ",
)
"""Codes of INVALID reasons; each can be accepted."""


LASTING = frozenset(CODES) - {
    "host_lateness", "interrupted", "target_changed", "clock_suspended", "device_shared",
    "planner_stall",
}  # fmt: skip
"""Reasons that another run of the same trace, on the same target, would have again."""


def reasons(findings: Findings) -> list[Reason]:
    """Return all that speaks against the numbers."""
    return [reason for check in _CHECKS for reason in check(findings)]


def _failed(findings: Findings) -> list[Reason]:
    if not findings.failed_ops:
        return []
    after = findings.dependency_failed_ops
    more = f"; {format_count(after)} more waited for one of them" if after else ""
    return [
        Reason(
            "failed_ops",
            f"{format_count(findings.failed_ops)} ops failed, the first with "
            f"{findings.first_error}{more}",
            "check the kernel log and the device's health; failed ops are in no percentile",
        )
    ]


def _mismatched(findings: Findings) -> list[Reason]:
    if not findings.mismatched_ops:
        return []
    first = findings.mismatches[0] if findings.mismatches else "no longer readable"
    return [
        Reason(
            "verify_failed",
            f"{format_count(findings.mismatched_ops)} reads returned bytes that differ from those "
            f"written; first: {first}",
            "check whether another process writes to the target; otherwise the storage loses or "
            "corrupts data",
        )
    ]


def _late(findings: Findings) -> list[Reason]:
    reasons = []
    if not findings.scheduled:
        return _idle(findings)
    for lane in findings.lanes:
        limit_ns = max(HOST_LATENESS_NS, int(lane.service_ns["p99"] * HOST_LATENESS_RATIO))
        late_ns = lane.waited("host_lateness_ns")["p99"]
        if late_ns > limit_ns:
            reasons.append(
                Reason(
                    "host_lateness",
                    f"tier {lane.tier}: kvtrace itself was late by "
                    f"{format_duration_ns(late_ns)} at P99, above {format_duration_ns(limit_ns)}",
                    f"{_MORE_CPU}, use the compiled engine, or lower --speed",
                )
            )
    return reasons


def _idle(findings: Findings) -> list[Reason]:
    """Return where the tool left queue slots unused.

    In max mode only that changes a throughput, and nothing of it is in a service time.
    """
    reasons = []
    for lane in findings.lanes:
        if lane.tier in findings.inline_tiers:
            continue  # the loop itself is what such a lane measures
        idle_ns = lane.waited("host_lateness_ns").mean or 0.0
        ratio = idle_ns / max(1.0, idle_ns + (lane.service_ns.mean or 0.0))
        if ratio > HOST_LATENESS_RATIO:
            reasons.append(
                Reason(
                    "host_lateness",
                    f"tier {lane.tier}: kvtrace left queue slots empty for {ratio:.1%} "
                    "of the time, so the device's throughput may be higher by as much",
                    f"{_MORE_CPU} or use the compiled engine",
                )
            )
    return reasons


def _unwritten(findings: Findings) -> list[Reason]:
    parts = []
    if findings.original_reads:
        parts.append(
            f"{format_count(findings.original_reads)} reads of objects that were never written"
        )
    if findings.beyond_reads:
        parts.append(f"{format_count(findings.beyond_reads)} reads beyond the written length")
    if not parts:
        return []
    return [
        Reason(
            "unwritten",
            ", ".join(parts),
            "use --populate touched: storage answers such reads without accessing its medium",
        )
    ]


def _not_executed(findings: Findings) -> list[Reason]:
    return [
        Reason(
            "tier_not_executed",
            f"tier {name} is in --tiers, but has no target or no rows in the trace",
            "add a target for the tier, or remove it from --tiers",
        )
        for name in findings.named_not_executed
    ]


def _short(findings: Findings) -> list[Reason]:
    measured_ns = max(findings.window_ns, findings.ended_after_ns)
    if measured_ns >= findings.min_window_ns:
        return []
    return [
        Reason(
            "short_window",
            f"{format_duration_ns(measured_ns)} measured, "
            f"at least {format_duration_ns(findings.min_window_ns)} required",
            "replay a longer trace, or repeat it (--run-time with --loop)"
            + (", or lower --speed" if findings.scheduled else "")
            + "; --min-window sets the limit",
        )
    ]


def _ended(findings: Findings) -> list[Reason]:
    if findings.window_ns >= RUN_TIME_RATIO * findings.run_time_ns:
        return []
    return [
        Reason(
            "trace_ended",
            f"the trace ended after {format_duration_ns(findings.window_ns)} of the "
            f"{format_duration_ns(findings.run_time_ns)} of --run-time",
            "add --loop to repeat the trace, or lower --run-time",
        )
    ]


def _nothing(findings: Findings) -> list[Reason]:
    if findings.measured_ops and findings.window_ns > 0:
        return []
    what = "the window has no length" if findings.measured_ops else "no read or write was measured"
    return [
        Reason(
            "nothing_measured",
            what,
            "raise --limit, lower --warmup, or add a target for a tier that has reads or writes",
        )
    ]


def _interrupted(findings: Findings) -> list[Reason]:
    if not findings.interrupted:
        return []
    return [Reason("interrupted", "stopped by a signal", "run again without interruption")]


def _changed(findings: Findings) -> list[Reason]:
    return [
        Reason("target_changed", change, "stop other users of the target and rerun")
        for change in findings.changed
    ]


def _suspended(findings: Findings) -> list[Reason]:
    if findings.suspended_ns <= SUSPENDED_NS:
        return []
    return [
        Reason(
            "clock_suspended",
            f"the machine was suspended for {format_duration_ns(findings.suspended_ns)} during the "
            "run; the run's times exclude that",
            "prevent suspend (systemd-inhibit --what=sleep) and rerun",
        )
    ]


def _cached(findings: Findings) -> list[Reason]:
    return [
        Reason(
            "page_cache",
            f"{target.title} is a loop device that uses the page cache: writes end in memory, "
            "reads may come from memory",
            "set up the loop device with losetup --direct-io=on, or use the file itself",
        )
        for target in findings.targets
        if target.beneath.cached and findings.own_bytes
    ]


def _shared(findings: Findings) -> list[Reason]:
    foreign = findings.foreign_bytes
    if foreign is None or foreign <= max(SHARED_BYTES, int(findings.own_bytes * SHARED_RATIO)):
        return []
    return [
        Reason(
            "device_shared",
            f"the device moved {format_bytes(foreign)} more than the run's "
            f"{format_bytes(findings.own_bytes)}",
            "stop the other users of the device and rerun",
        )
    ]


def _violated(findings: Findings) -> list[Reason]:
    if not findings.fidelity.order_violations:
        return []
    return [
        Reason(
            "order_violated",
            f"{format_count(findings.fidelity.order_violations)} ops started before "
            "the ops they depend on completed",
            "this is a defect of kvtrace: report it with the trace",
        )
    ]


def _stalled(findings: Findings) -> list[Reason]:
    if not findings.planner_stalls:
        return []
    return [
        Reason(
            "planner_stall",
            f"the loop waited for the planner {format_count(findings.planner_stalls)} times",
            "free a CPU for the planner, or "
            + ("lower --speed" if findings.scheduled else "use a smaller --queue-depth"),
        )
    ]


def _repeated(findings: Findings) -> list[Reason]:
    if not findings.repeated_payload or not findings.own_bytes:
        return []
    return [
        Reason(
            "payload_repeated",
            "the same payload bytes were written repeatedly, without stamps",
            "add --payload fresh, or omit --dedup-ratio",
        )
    ]


def _miscounted(findings: Findings) -> list[Reason]:
    if findings.counts is None or findings.counts.add_up:
        return []
    return [
        Reason(
            "counts_differ",
            f"{findings.counts}: the counts do not add up",
            "this is a defect of kvtrace: report it with the trace",
        )
    ]


_CHECKS = (
    _failed, _mismatched, _late, _unwritten, _not_executed, _short, _ended, _nothing, _interrupted,
    _changed, _suspended, _cached, _shared, _violated, _stalled, _repeated, _miscounted,
)  # fmt: skip
