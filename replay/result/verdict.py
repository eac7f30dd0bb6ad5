"""May the numbers be used? VALID or INVALID, each reason with its figure and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from kvtrace.units import format_count, format_duration_ns
from replay.result.invalid import reasons
from replay.result.reason import Reason
from replay.result.warnings import warnings

if TYPE_CHECKING:
    from kvtrace.trace.schema import Tier
    from replay.host.environment import TargetEnvironment
    from replay.measure.counts import Counts
    from replay.measure.fidelity import Fidelity, Skipped
    from replay.measure.recorder import LaneMeasure
    from replay.result.model import PayloadInfo

OVERLOADED = "OVERLOADED"
UNVERIFIED = "UNVERIFIED"
NEVER_ACCEPTED = ("nothing_measured", "interrupted")
"""Reasons that no --accept turns into a success."""


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
    ended_after_ns: int = 0
    """How long the run measured before its run time was over; its last submit may be earlier."""
    part_ratio: float | None = None
    """How much of the trace a run did that ended before a whole round; None if it did one."""
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
    """Devices with thermal throttling."""
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
    targets: tuple[TargetEnvironment, ...] = ()
    """What lies below the targets."""


def judge(findings: Findings, accept: tuple[str, ...] = ()) -> Verdict:
    """Return the verdict on `findings`; reasons named by `accept` stay, marked."""
    marked = tuple(
        Reason(r.code, r.figure, r.remedy, accepted=r.code in accept) for r in reasons(findings)
    )
    marks = (*_overloaded(findings), *_unverified(findings))
    return Verdict(marked, tuple(warnings(findings)), marks)


def _unverified(findings: Findings) -> list[Reason]:
    if not findings.moved_reads or (
        findings.coverage is not None and findings.coverage.checked_bytes
    ):
        return []
    return [
        Reason(
            UNVERIFIED,
            f"none of {format_count(findings.moved_reads)} reads was verified",
            "use --verify sample and --populate touched, without --dedup-ratio, to detect lost or "
            "corrupted data",
        )
    ]


def _overloaded(findings: Findings) -> list[Reason]:
    if not findings.scheduled:
        return []
    marks = []
    for lane in findings.lanes:
        slot_ns, service_ns = lane.lateness.slot_wait["p99"], lane.service["p99"]
        if slot_ns > service_ns or lane.backlog_growing:
            what = (
                "the backlog grew until the end" if lane.backlog_growing else "queue slots ran out"
            )
            marks.append(
                Reason(
                    OVERLOADED,
                    f"tier {lane.tier.label}: {what} (P99 slot wait "
                    f"{format_duration_ns(slot_ns)}, P99 service {format_duration_ns(service_ns)})",
                    "the device is saturated: response times depend on the run's length; lower "
                    "--speed to measure latency",
                )
            )
    return marks
