"""May the numbers be used? VALID or INVALID, each reason with its figure and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from kvtrace.units import MIB, MS_NS, US_NS, format_bytes, format_count, format_duration_ns
from replay.reason import Reason
from replay.run_warnings import warnings

if TYPE_CHECKING:
    from kvtrace.schema import Tier
    from replay.counts import Counts
    from replay.fidelity import Fidelity, Skipped
    from replay.recorder import LaneMeasure
    from replay.result import PayloadInfo

HOST_LATENESS_NS = 100 * US_NS
HOST_LATENESS_RATIO = 0.01
SHARED_RATIO = 0.05
SHARED_BYTES = 64 * MIB
RUN_TIME_RATIO = 0.99
"""How much of its run time a run lasts at least."""
SUSPENDED_NS = 10 * MS_NS
OVERLOADED = "OVERLOADED"
UNVERIFIED = "UNVERIFIED"
NEVER_ACCEPTED = ("nothing_measured", "interrupted")
"""Reasons that no --accept turns into a success."""

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
    "device_shared",
    "order_violated",
    "planner_stall",
    "payload_repeated",
    "counts_differ",
)
"""What can make a result INVALID; each may be accepted."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`reasons` make a result INVALID (accepted or not), `warnings` and `marks` don't."""

    reasons: tuple[Reason, ...] = ()
    warnings: tuple[Reason, ...] = ()
    marks: tuple[Reason, ...] = ()

    @property
    def valid(self) -> bool:
        """Whether nothing speaks against the numbers."""
        return not self.reasons

    @property
    def word(self) -> Literal["VALID", "INVALID"]:
        """VALID or INVALID."""
        return "VALID" if self.valid else "INVALID"

    @property
    def acceptable(self) -> bool:
        """Whether every reason was accepted by the user, and may be."""
        return all(each.accepted and each.code not in NEVER_ACCEPTED for each in self.reasons)


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything that the verdict depends on."""

    lanes: tuple[LaneMeasure, ...]
    fidelity: Fidelity
    counts: Counts | None = None
    skipped: tuple[Skipped, ...] = ()
    named_not_executed: tuple[str, ...] = ()
    left_out_ops: int = 0
    """Ops that had failed where the trace was recorded."""
    failed_ops: int = 0
    dependency_failed_ops: int = 0
    first_error: str = ""
    mismatches: tuple[str, ...] = ()
    mismatched_ops: int = 0
    original_reads: int = 0
    beyond_reads: int = 0
    min_window_ns: int = 0
    window_ns: int = 0
    run_time_ns: int = 0
    """How long the run should have taken; 0 if it did, or took what the trace takes."""
    interrupted: bool = False
    changed: tuple[str, ...] = ()
    suspended_ns: int = 0
    foreign_bytes: int | None = None
    own_bytes: int = 0
    planner_stalls: int = 0
    repeated_payload: bool = False
    """Whether payload was written again and again without stamps."""
    unconditioned: bool = False
    """Whether a device in an unknown state was written."""
    throttled: tuple[str, ...] = ()
    """Devices that went slower for their heat."""
    no_bpf: str = ""
    """Why the block layer's latencies, which were asked for, couldn't be had."""
    engine: str = ""
    small_pages: bool = False
    inline_tiers: tuple[Tier, ...] = ()
    """Tiers whose ops the loop does itself (null, memory)."""
    measured_ops: int = 1
    """Reads and writes with a latency, after warm-up."""
    moved_reads: int = 0
    """Reads that brought bytes from a target."""
    coverage: PayloadInfo | None = None
    """What of them was verified."""
    scheduled: bool = True
    """Whether there is a schedule to be late against (not in max mode)."""


def judge(findings: Findings, accept: tuple[str, ...] = ()) -> Verdict:
    """Return the verdict on `findings`; reasons named by `accept` stay, marked."""
    checks = (
        _failed,
        _mismatched,
        _late,
        _unwritten,
        _not_executed,
        _short,
        _ended,
        _nothing,
        _interrupted,
        _changed,
        _suspended,
        _shared,
        _violated,
        _stalled,
        _repeated,
        _miscounted,
    )
    reasons = [reason for check in checks for reason in check(findings)]
    marked = tuple(Reason(r.code, r.figure, r.remedy, accepted=r.code in accept) for r in reasons)
    marks = (*_overloaded(findings), *_unverified(findings))
    return Verdict(marked, tuple(warnings(findings)), marks)


def _failed(found: Findings) -> list[Reason]:
    if not found.failed_ops:
        return []
    after = found.dependency_failed_ops
    more = f"; {format_count(after)} more waited for one of them" if after else ""
    return [
        Reason(
            "failed_ops",
            f"{format_count(found.failed_ops)} ops failed, the first with "
            f"{found.first_error}{more}",
            "see the kernel's log and the device's health; failed ops are in no percentile",
        )
    ]


def _mismatched(found: Findings) -> list[Reason]:
    if not found.mismatched_ops:
        return []
    first = found.mismatches[0] if found.mismatches else "not readable any more"
    return [
        Reason(
            "verify_failed",
            f"{format_count(found.mismatched_ops)} reads returned other bytes than were "
            f"written; first: {first}",
            "is another process writing there? Else the storage loses or mixes up data",
        )
    ]


def _late(found: Findings) -> list[Reason]:
    reasons = []
    for lane in found.lanes:
        if not found.scheduled and lane.tier in found.inline_tiers:
            continue  # at full speed the loop itself is what such a lane measures
        limit_ns = max(HOST_LATENESS_NS, int(lane.service["p99"] * HOST_LATENESS_RATIO))
        late_ns = lane.lateness.host["p99"]
        if late_ns > limit_ns:
            reasons.append(
                Reason(
                    "host_lateness",
                    f"tier {lane.tier.label}: the tool itself was late by "
                    f"{format_duration_ns(late_ns)} at P99, above {format_duration_ns(limit_ns)}",
                    "give the loop more CPU (--threads, --spin on, fewer busy processes) or use "
                    "the compiled engine" + (", or lower --speed" if found.scheduled else ""),
                )
            )
    return reasons


def _unwritten(found: Findings) -> list[Reason]:
    parts = []
    if found.original_reads:
        parts.append(f"{format_count(found.original_reads)} reads of objects nobody has written")
    if found.beyond_reads:
        parts.append(f"{format_count(found.beyond_reads)} reads beyond what was written")
    if not parts:
        return []
    return [
        Reason(
            "unwritten",
            ", ".join(parts),
            "use --populate touched: storage answers such reads without touching its medium",
        )
    ]


def _not_executed(found: Findings) -> list[Reason]:
    return [
        Reason(
            "tier_not_executed",
            f"tier {name} was named by --tiers and had no target, or the trace has no such rows",
            "give it a target, or leave it out of --tiers",
        )
        for name in found.named_not_executed
    ]


def _short(found: Findings) -> list[Reason]:
    if found.window_ns >= found.min_window_ns:
        return []
    return [
        Reason(
            "short_window",
            f"{format_duration_ns(found.window_ns)} measured, "
            f"{format_duration_ns(found.min_window_ns)} asked for",
            "replay a longer trace, or repeat it (--run-time with --loop)"
            + (", or a lower --speed" if found.scheduled else "")
            + "; --min-window sets the limit",
        )
    ]


def _ended(found: Findings) -> list[Reason]:
    if found.window_ns >= RUN_TIME_RATIO * found.run_time_ns:
        return []
    return [
        Reason(
            "trace_ended",
            f"the trace ended after {format_duration_ns(found.window_ns)} of the "
            f"{format_duration_ns(found.run_time_ns)} of --run-time",
            "add --loop to repeat the trace, or lower --run-time",
        )
    ]


def _nothing(found: Findings) -> list[Reason]:
    if found.measured_ops and found.window_ns > 0:
        return []
    what = "the window has no length" if found.measured_ops else "no read or write was measured"
    return [
        Reason(
            "nothing_measured",
            what,
            "replay more of the trace (--limit), warm up for less (--warmup), or give the tiers "
            "with reads and writes a target",
        )
    ]


def _interrupted(found: Findings) -> list[Reason]:
    if not found.interrupted:
        return []
    return [Reason("interrupted", "stopped by a signal", "let it run to its end")]


def _changed(found: Findings) -> list[Reason]:
    return [
        Reason("target_changed", change, "keep others away from the target, and run again")
        for change in found.changed
    ]


def _suspended(found: Findings) -> list[Reason]:
    if found.suspended_ns <= SUSPENDED_NS:
        return []
    return [
        Reason(
            "clock_suspended",
            f"the machine slept for {format_duration_ns(found.suspended_ns)} during the run, which "
            "none of its times shows",
            "keep it awake (systemd-inhibit --what=sleep), and run again",
        )
    ]


def _shared(found: Findings) -> list[Reason]:
    foreign = found.foreign_bytes
    if foreign is None or foreign <= max(SHARED_BYTES, int(found.own_bytes * SHARED_RATIO)):
        return []
    return [
        Reason(
            "device_shared",
            f"the device moved {format_bytes(foreign)} more than the run's "
            f"{format_bytes(found.own_bytes)}",
            "stop what else uses the device",
        )
    ]


def _violated(found: Findings) -> list[Reason]:
    if not found.fidelity.order_violations:
        return []
    return [
        Reason(
            "order_violated",
            f"{format_count(found.fidelity.order_violations)} ops began before what they wait for",
            "this is a defect of kvtrace: report it with the trace",
        )
    ]


def _stalled(found: Findings) -> list[Reason]:
    if not found.planner_stalls:
        return []
    return [
        Reason(
            "planner_stall",
            f"the loop had to wait for its plan {format_count(found.planner_stalls)} times",
            "free a CPU for the planner, or "
            + ("lower --speed" if found.scheduled else "use a smaller --queue-depth"),
        )
    ]


def _repeated(found: Findings) -> list[Reason]:
    if not found.repeated_payload or not found.own_bytes:
        return []
    return [
        Reason(
            "payload_repeated",
            "the arena's bytes were written again and again without stamps",
            "use --payload fresh with --dedup-ratio, or no --dedup-ratio",
        )
    ]


def _unverified(found: Findings) -> list[Reason]:
    if not found.moved_reads or (found.coverage is not None and found.coverage.checked_bytes):
        return []
    return [
        Reason(
            UNVERIFIED,
            f"none of {format_count(found.moved_reads)} reads was verified",
            "--verify sample, without --dedup-ratio and with --populate touched, finds data that "
            "was lost or mixed up",
        )
    ]


def _miscounted(found: Findings) -> list[Reason]:
    if found.counts is None or found.counts.add_up:
        return []
    return [
        Reason(
            "counts_differ",
            f"{found.counts}: they don't add up",
            "this is a defect of kvtrace: report it with the trace",
        )
    ]


def _overloaded(found: Findings) -> list[Reason]:
    if not found.scheduled:
        return []
    marks = []
    for lane in found.lanes:
        slot_ns, service_ns = lane.lateness.slot_wait["p99"], lane.service["p99"]
        if slot_ns > service_ns or lane.backlog_growing:
            what = "the backlog grew to the end" if lane.backlog_growing else "slots ran out"
            marks.append(
                Reason(
                    OVERLOADED,
                    f"tier {lane.tier.label}: {what} (P99 slot wait "
                    f"{format_duration_ns(slot_ns)}, P99 service {format_duration_ns(service_ns)})",
                    "a saturation result: response times depend on the run's length; lower "
                    "--speed for latencies",
                )
            )
    return marks
