"""May the numbers be used? VALID or INVALID, each reason with its figure and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from kvtrace.units import format_count, format_duration_ns
from replay.result.invalid import reasons
from replay.result.reason import Reason
from replay.result.warnings import warnings

if TYPE_CHECKING:
    from replay.result.findings import Findings

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
        slot_ns, service_ns = lane.waited("slot_wait_ns")["p99"], lane.service_ns["p99"]
        growing = lane.tier in findings.backlog_tiers
        if slot_ns > service_ns or growing:
            what = "the backlog grew until the end" if growing else "queue slots ran out"
            marks.append(
                Reason(
                    OVERLOADED,
                    f"tier {lane.tier}: {what} (P99 slot wait "
                    f"{format_duration_ns(slot_ns)}, P99 service {format_duration_ns(service_ns)})",
                    "the device is saturated: response times depend on the run's length; lower "
                    "--speed to measure latency",
                )
            )
    return marks
