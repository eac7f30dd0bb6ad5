"""Each reason, by findings made by hand: when it appears, and what it says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kvtrace.trace.schema import Tier
from kvtrace.units import MIB, S_NS
from replay.host.beneath import Beneath
from replay.host.environment import TargetEnvironment
from replay.measure import fidelity
from replay.measure.counts import Counts
from replay.measure.figures import LaneDocument, LatenessSummary
from replay.measure.recorder import Recorder
from replay.measure.summaries import QUANTILES, Percentiles
from replay.ops.contract import Mode
from replay.result.findings import Findings
from replay.result.invalid import CODES
from replay.result.verdict import NEVER_ACCEPTED, OVERLOADED, judge


def flat(value: int, count: int = 100_000) -> Percentiles:
    """Percentiles all of which are one value."""
    same = dict.fromkeys([*QUANTILES, "max"], value)
    return Percentiles(**same, mean=float(value), count=count, few_samples=[])


def lane(host_ns: int = 10, slot_ns: int = 0, service_ns: int = 1_000_000) -> LaneDocument:
    """A lane that ran well, but for what is said."""
    recorder = Recorder(1, Mode.OPEN, 0)
    lateness = {
        "dependency_wait_ns": flat(0),
        "slot_wait_ns": flat(slot_ns),
        "burst_wait_ns": flat(0),
        "host_lateness_ns": flat(host_ns),
    }
    return recorder.measure(0, Tier.NVME, ()).model_copy(
        update={
            "service_ns": flat(service_ns),
            "response_ns": flat(service_ns),
            "lateness_ns": LatenessSummary(**dict(flat(0)), **lateness),
        }
    )


def on(**beneath: Any) -> TargetEnvironment:
    """A target over something."""
    return TargetEnvironment("t", None, None, None, None, {}, Beneath(**beneath))


GOOD = Findings(
    lanes=(lane(),),
    fidelity=fidelity.measure(Recorder(1, Mode.OPEN, 0), [], 0),
    window_ns=S_NS,
    min_window_ns=S_NS,
    engine="uring",
)


def test_a_good_run_is_valid() -> None:
    """Nothing wrong: VALID, without reasons, marks or warnings."""
    verdict = judge(GOOD)
    assert verdict.word == "VALID"
    assert (verdict.reasons, verdict.marks, verdict.warnings) == ((), (), ())


@pytest.mark.parametrize(
    ("code", "fields"),
    [
        ("failed_ops", {"failed_ops": 3, "first_error": "EIO"}),
        ("verify_failed", {"mismatched_ops": 1, "mismatches": ("object 5",)}),
        ("host_lateness", {"lanes": (lane(host_ns=100_001),)}),
        ("unwritten", {"original_reads": 1}),
        ("unwritten", {"beyond_reads": 1}),
        ("tier_not_executed", {"named_not_executed": ("cpu",)}),
        ("short_window", {"window_ns": S_NS - 1}),
        ("trace_ended", {"run_time_ns": 2 * S_NS}),
        ("page_cache", {"targets": (on(cached=True),), "own_bytes": 1}),
        ("nothing_measured", {"measured_ops": 0}),
        ("nothing_measured", {"window_ns": 0, "min_window_ns": 0}),
        ("interrupted", {"interrupted": True}),
        ("target_changed", {"changed": ("kv: was written by something else",)}),
        ("clock_suspended", {"suspended_ns": 10_000_001}),
        ("device_shared", {"foreign_bytes": 65 * MIB, "own_bytes": 100 * MIB}),
        ("planner_stall", {"planner_stalls": 2}),
        ("counts_differ", {"counts": Counts(10, 7, 1, 1)}),
        ("payload_repeated", {"repeated_payload": True, "own_bytes": 1}),
        (
            "order_violated",
            {"fidelity": fidelity.measure(Recorder(1, Mode.OPEN, 0), [], 1)},
        ),
    ],
)
def test_each_reason_makes_a_run_invalid(code: str, fields: dict[str, object]) -> None:
    """The reason has its code, a figure and a remedy; accepting it keeps it visible."""
    verdict = judge(replace(GOOD, **fields))  # type: ignore[arg-type]
    assert [reason.code for reason in verdict.reasons] == [code]
    assert verdict.word == "INVALID"
    assert verdict.reasons[0].figure
    assert verdict.reasons[0].remedy
    assert code in CODES
    accepted = judge(replace(GOOD, **fields), (code,))  # type: ignore[arg-type]
    assert accepted.acceptable == (code not in NEVER_ACCEPTED)
    assert accepted.word == "INVALID"
    assert accepted.reasons[0].accepted


def test_a_run_that_took_its_run_time_isnt_short() -> None:
    """Its last submit may be a service time before the end; nothing measured stays a reason."""
    ended = replace(GOOD, window_ns=S_NS - 1, ended_after_ns=S_NS)
    assert judge(ended).valid
    assert not judge(replace(ended, min_window_ns=S_NS + 1)).valid
    assert not judge(replace(ended, window_ns=0)).valid


def test_host_lateness_may_be_one_percent_of_a_slow_devices_service() -> None:
    """100 µs is the limit for fast devices, 1 % of P99 service for slow ones."""
    slow = lane(host_ns=900_000, service_ns=100_000_000)
    assert judge(replace(GOOD, lanes=(slow,))).valid
    assert not judge(replace(GOOD, lanes=(lane(900_000, service_ns=80_000_000),))).valid


def test_full_speed_on_a_target_inside_the_loop_has_no_host_lateness() -> None:
    """In max mode null and memory measure the loop's own speed; a schedule is kept or not."""
    late = replace(GOOD, lanes=(lane(host_ns=10**9),), inline_tiers=("nvme",))
    assert judge(replace(late, scheduled=False)).valid
    assert not judge(late).valid


def test_full_speed_is_judged_by_the_share_of_slots_left_unused() -> None:
    """In max mode a late P99 changes no service time, and throughput only as far as slots idle."""
    late = lane(host_ns=9_000)  # of service times of 1 ms
    host = flat(10**9).model_copy(update={"mean": 9e3})
    lateness = late.lateness_ns.model_copy(update={"host_lateness_ns": host})
    rare = late.model_copy(update={"lateness_ns": lateness})
    assert judge(replace(GOOD, lanes=(rare,), scheduled=False)).valid
    assert not judge(replace(GOOD, lanes=(rare,))).valid
    (reason,) = judge(replace(GOOD, lanes=(lane(host_ns=25_000),), scheduled=False)).reasons
    assert "2.4%" in reason.figure


def test_foreign_device_traffic_is_tolerated_below_both_limits() -> None:
    """5 % of ours, and 64 MiB in any case, is what a file system's journal may take."""
    assert judge(replace(GOOD, foreign_bytes=64 * MIB, own_bytes=MIB)).valid
    assert judge(replace(GOOD, foreign_bytes=500 * MIB, own_bytes=10_000 * MIB)).valid
    assert not judge(replace(GOOD, foreign_bytes=501 * MIB, own_bytes=10_000 * MIB)).valid


def test_overload_is_a_mark_and_not_a_reason() -> None:
    """Slots that run out, or a backlog that grows, leave the run valid as a saturation result."""
    full = lane(slot_ns=2_000_000)
    saturated = replace(GOOD, lanes=(full,))
    for findings in (saturated, replace(GOOD, backlog_tiers=("nvme",))):
        verdict = judge(findings)
        assert verdict.valid
        assert [mark.code for mark in verdict.marks] == [OVERLOADED]
    assert judge(replace(GOOD, lanes=(full,), scheduled=False)).marks == ()


def test_warnings() -> None:
    """An unknown device state, drift, the slow engine and small pages are warned of."""
    drifting = lane().model_copy(update={"drift_ratio": 0.2})
    verdict = judge(
        replace(
            GOOD,
            lanes=(drifting,),
            unconditioned=True,
            throttled=("/dev/x",),
            own_bytes=1,
            engine="python",
            small_pages=True,
        )
    )
    codes = [warning.code for warning in verdict.warnings]
    assert codes == ["not_preconditioned", "throttled", "drift", "python_engine", "small_pages"]
    assert verdict.valid


@pytest.mark.parametrize(
    ("code", "below"),
    [
        ("in_memory", {"in_memory": True}),
        ("virtual_disk", {"virtual": True}),
        ("io_limit", {"io_limit": "1.00 MiB/s of reads"}),
    ],
)
def test_what_lies_below_a_target_is_said(code: str, below: dict[str, object]) -> None:
    """What doctor knows of a target, the result says too; it stays valid."""
    verdict = judge(replace(GOOD, targets=(on(**below),)))
    assert [warning.code for warning in verdict.warnings] == [code]
    assert verdict.valid


def test_a_part_of_a_trace_is_said() -> None:
    """What its beginning does isn't what all of it does."""
    (warning,) = judge(replace(GOOD, part_ratio=0.21)).warnings
    assert warning.code == "part_of_trace"
    assert "21.0% of the trace" in warning.figure


@pytest.mark.parametrize("scheduled", [True, False])
def test_remedies_fit_the_mode(scheduled: bool) -> None:
    """At full speed no remedy is to lower --speed, which would change nothing."""
    bad = replace(GOOD, window_ns=1, planner_stalls=1, lanes=(lane(host_ns=10**9),))
    verdict = judge(replace(bad, scheduled=scheduled))
    remedies = [reason.remedy for reason in verdict.reasons]
    assert len(remedies) == 3
    assert all(("--speed" in remedy) == scheduled for remedy in remedies)
