"""Warnings of a result: what leaves it VALID, and should be known."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replay.result import signs
from replay.result.reason import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from replay.host.environment import TargetEnvironment
    from replay.result.verdict import Findings


def _stamps_only(found: Findings) -> list[Reason]:
    if found.coverage is None or not found.coverage.checked_bytes or found.coverage.body_bytes:
        return []
    return [
        Reason(
            "stamps_only",
            f"reads were verified by their {found.coverage.coverage}: a changed bit elsewhere "
            "isn't seen",
            "--verify full compares every byte, --verify sample that of one read in 128",
        )
    ]


def _beneath(target: TargetEnvironment) -> Iterator[Reason]:
    """Yield what a target's figures are of, beside a drive of its own."""
    below = target.beneath
    if below.in_memory:
        yield Reason(
            "in_memory", f"{target.title} is in memory", "use a drive, or report it as memory"
        )
    if below.virtual:
        yield Reason(
            "virtual_disk",
            f"{target.title} is on a virtual disk: its host's cache, limits and neighbours are "
            "measured too",
            "use a drive that is passed through, or report it as a virtual disk",
        )
    if below.io_limit:
        yield Reason(
            "io_limit",
            f"{target.title}: a cgroup allows {below.io_limit}",
            "raise io.max of the cgroup, or report the figures as those of the limit",
        )


def _part(found: Findings) -> list[Reason]:
    if found.part_ratio is None:
        return []
    return [
        Reason(
            "part_of_trace",
            f"the run did {found.part_ratio:.1%} of the trace: its mix of reads and writes is "
            "that of the beginning",
            "a longer --run-time, or a smaller trace, does whole rounds; compare drives by the "
            "same part (--limit) or by whole rounds",
        )
    ]


def warnings(found: Findings) -> list[Reason]:
    """Return what a reader of the numbers should know, each with a remedy."""
    warnings = []
    if found.unconditioned and found.own_bytes:
        warnings.append(
            Reason(
                "not_preconditioned",
                "writes went to a device in an unknown state",
                "`kvtrace precondition` fills it, so that its garbage collection is measured too",
            )
        )
    warnings += [
        Reason("throttled", f"{name} went slower for its heat", "cool it, and run again")
        for name in found.throttled
    ]
    warnings += [reason for target in found.targets for reason in _beneath(target)]
    warnings += _stamps_only(found)
    if found.left_out_ops:
        warnings.append(
            Reason(
                "failed_left_out",
                f"{found.left_out_ops:,} ops that had failed in the trace were not executed",
                "--with-failed executes them",
            )
        )
    warnings += _part(found)
    warnings += signs.warnings(found.lanes)
    if found.no_bpf:
        warnings.append(
            Reason(
                "no_bpf",
                f"the block layer's latencies couldn't be had: {found.no_bpf}",
                "see docs/host.md, or leave out --bpf",
            )
        )
    if found.engine == "python":
        warnings.append(
            Reason(
                "python_engine",
                "50 to 200 µs of CPU and lateness per op, 16 threads at most",
                "install a C compiler and install kvtrace again",
            )
        )
    if found.small_pages:
        warnings.append(
            Reason(
                "small_pages",
                "buffers on 4 KiB pages: fast devices reach about half their throughput",
                "sysctl vm.nr_hugepages, or echo madvise > "
                "/sys/kernel/mm/transparent_hugepage/enabled",
            )
        )
    return warnings
