"""Everything about a run that its verdict depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from replay.host.environment import TargetEnvironment
    from replay.measure.counts import Counts
    from replay.measure.fidelity import FidelityDocument
    from replay.measure.figures import LaneDocument
    from replay.result.document import PayloadInfo


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything that the verdict depends on."""

    lanes: tuple[LaneDocument, ...]
    fidelity: FidelityDocument
    counts: Counts | None = None
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
    backlog_tiers: tuple[str, ...] = ()
    """Tiers whose backlog still grew at the end of the schedule."""
    inline_tiers: tuple[str, ...] = ()
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
