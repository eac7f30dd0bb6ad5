"""Warnings: findings that leave a result VALID."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replay.result import signs
from replay.result.reason import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from replay.host.environment import TargetEnvironment
    from replay.result.findings import Findings


def _stamps_only(findings: Findings) -> list[Reason]:
    if (
        findings.coverage is None
        or not findings.coverage.checked_bytes
        or findings.coverage.body_bytes
    ):
        return []
    return [
        Reason(
            "stamps_only",
            f"reads were verified by {findings.coverage.coverage}: corruption between stamps goes "
            "undetected",
            "--verify full compares every byte, --verify sample every byte of one read in 128",
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
            f"{target.title} is on a virtual disk: figures include the host's cache, limits and "
            "other guests",
            "pass a drive through, or report the disk as virtual",
        )
    if below.io_limit:
        yield Reason(
            "io_limit",
            f"{target.title}: a cgroup limits I/O to {below.io_limit}",
            "raise the cgroup's io.max, or report the limit with the figures",
        )


def _part(findings: Findings) -> list[Reason]:
    if findings.part_ratio is None:
        return []
    return [
        Reason(
            "part_of_trace",
            f"the run replayed {findings.part_ratio:.1%} of the trace, so its mix of reads and "
            "writes is that of the trace's beginning",
            "raise --run-time or use a smaller trace; compare drives by the same part (--limit) or "
            "by whole rounds",
        )
    ]


def warnings(findings: Findings) -> list[Reason]:
    """Return warnings: facts that a reader of the figures needs, each with a remedy."""
    warnings = []
    if findings.unconditioned and findings.own_bytes:
        warnings.append(
            Reason(
                "not_preconditioned",
                "the device's state is unknown",
                "run `kvtrace precondition` first, so that the run includes garbage collection",
            )
        )
    warnings += [
        Reason("throttled", f"{name}: thermal throttling", "improve cooling and rerun")
        for name in findings.throttled
    ]
    warnings += [reason for target in findings.targets for reason in _beneath(target)]
    warnings += _stamps_only(findings)
    if findings.left_out_ops:
        warnings.append(
            Reason(
                "failed_left_out",
                f"{findings.left_out_ops:,} ops that failed when the trace was recorded were "
                "not executed",
                "add --with-failed to execute them",
            )
        )
    warnings += _part(findings)
    warnings += signs.warnings(findings.lanes)
    if findings.no_bpf:
        warnings.append(
            Reason(
                "no_bpf",
                f"block-layer latencies are missing: {findings.no_bpf}",
                "see docs/host.md, or omit --bpf",
            )
        )
    if findings.engine == "python":
        warnings.append(
            Reason(
                "python_engine",
                "50 to 200 µs of CPU and lateness per op, 16 threads at most",
                "leave out --engine python, the reference of the tests",
            )
        )
    if findings.small_pages:
        warnings.append(
            Reason(
                "small_pages",
                "buffers on 4 KiB pages: fast devices reach about half their throughput",
                "sysctl vm.nr_hugepages, or echo madvise > "
                "/sys/kernel/mm/transparent_hugepage/enabled",
            )
        )
    return warnings
