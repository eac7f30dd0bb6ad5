"""Lateness, throughput and percentiles of runs whose times were made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kvtrace.schema import Op, Phase, Tier
from replay.fidelity import in_flight_max
from replay.loop import DEPENDENCY_FAILED, LaneCounters, Mode, Outcome, Times
from replay.recorder import Recorder
from replay.violations import count_violations
from tests.replay.conftest import Row, simple_rows
from tests.replay.test_plan import make_plan

if TYPE_CHECKING:
    from replay.plan import Plan

START = 1_000_000
R, W, D = Op.READ, Op.WRITE, Op.DELETE


def outcome(plan: Plan, **columns: Any) -> Outcome:
    """Return an outcome with those columns (times since the start); others say 'at once'."""
    times = Times.empty(len(plan.row))
    due = plan.ops.due_ns + START
    for name in ("ready_ns", "slot_ns", "submit_ns", "complete_ns"):
        given = columns.get(name)
        values = due if given is None else np.array(given, np.int64) + START
        getattr(times, name)[:] = values
    if "error" in columns:
        times.error[:] = columns["error"]
    return Outcome(START, times, (LaneCounters(),), 0, 0)


def reads(count: int, gap_ns: int, size: int = 4096) -> list[Row]:
    """Reads of different objects at equal distances."""
    return [(i * gap_ns, R, Tier.NVME, i, Phase.DECODE, size) for i in range(count)]


def test_lateness_divides_into_dependency_slot_and_host() -> None:
    """Submit − due is what was waited for: predecessors, then a slot, then the tool."""
    plan, _ = make_plan(reads(3, 100_000))
    found = outcome(
        plan,
        ready_ns=[0, 150_000, 200_000],
        slot_ns=[0, 170_000, 250_000],
        submit_ns=[7_000, 175_000, 250_000],
        complete_ns=[50_000, 200_000, 300_000],
    )
    lateness = Recorder(plan, found, Mode.OPEN).lane(0, Tier.NVME).lateness
    waits = Recorder(plan, found, Mode.OPEN).waits
    assert waits.dependency_ns.tolist() == [0, 50_000, 0]
    assert waits.slot_ns.tolist() == [0, 20_000, 50_000]
    assert waits.host_ns.tolist() == [7_000, 5_000, 0]
    assert waits.burst_ns.tolist() == [0, 0, 0]
    assert lateness.total.max == 75_000
    parts = (lateness.dependency_wait.max, lateness.slot_wait.max, lateness.host.max)
    assert parts == (50_000, 50_000, 7_000)


def test_ops_due_at_once_wait_for_each_other() -> None:
    """Of a burst each op waits 10 µs for each before it; what is beyond is the tool's own."""
    plan, _ = make_plan([*reads(3, 0), (100_000, R, Tier.NVME, 9, Phase.DECODE, 4096)])
    submit = [2_000, 9_000, 45_000, 101_000]
    found = outcome(plan, submit_ns=submit, complete_ns=[200_000] * 4)
    waits = Recorder(plan, found, Mode.OPEN).waits
    assert waits.burst_ns.tolist() == [0, 9_000, 20_000, 0]
    assert waits.host_ns.tolist() == [2_000, 0, 25_000, 1_000]
    assert Recorder(plan, found, Mode.MAX).waits.burst_ns.tolist() == [0] * 4
    lateness = Recorder(plan, found, Mode.OPEN).lane(0, Tier.NVME).lateness
    assert (lateness.burst_wait.max, lateness.host.max, lateness.total.max) == (
        20_000,
        25_000,
        45_000,
    )


def test_long_ops_of_a_burst_take_their_bytes() -> None:
    """A long op takes what its bytes take at 25 GB/s."""
    size = 4096 * 1000
    plan, _ = make_plan(reads(2, 0, size=size))
    late = size // 25 + 5_000
    found = outcome(plan, submit_ns=[0, late], complete_ns=[1_000_000] * 2)
    waits = Recorder(plan, found, Mode.OPEN).waits
    assert (waits.burst_ns.tolist(), waits.host_ns.tolist()) == ([0, size // 25], [0, 5_000])


def test_waiting_for_a_memory_targets_copier_is_slot_wait() -> None:
    """Two ops due at once where one is done at a time: the second waits for a slot."""
    plan, _ = make_plan(reads(2, 0))
    found = outcome(plan, submit_ns=[0, 52_000], complete_ns=[50_000, 90_000])
    waits = Recorder(plan, found, Mode.OPEN, (0,)).waits
    assert (waits.slot_ns.tolist(), waits.host_ns.tolist()) == ([0, 50_000], [0, 2_000])
    assert Recorder(plan, found, Mode.OPEN).waits.slot_ns.tolist() == [0, 0]


def test_max_mode_has_no_response_time_and_no_dependency_wait() -> None:
    """In max mode an op is due when it is ready."""
    plan, _ = make_plan(reads(2, 1000))
    found = outcome(plan, ready_ns=[0, 10], slot_ns=[0, 30], submit_ns=[1, 31], complete_ns=[5, 50])
    lane = Recorder(plan, found, Mode.MAX).lane(0, Tier.NVME)
    assert lane.response is None
    assert lane.lateness.dependency_wait.max == 0
    assert lane.lateness.slot_wait.max == 20


def test_a_stall_shows_in_response_and_not_in_service() -> None:
    """One op of 1 s at depth 1 delays the 99 after it: their response has it, service doesn't."""
    gap, service, stall = 10_000_000, 1_000_000, 1_000_000_000
    plan, _ = make_plan(reads(100, gap))
    submit, complete, free = [], [], 0
    for index in range(100):
        begin = max(index * gap, free)
        free = begin + (stall if index == 0 else service)
        submit.append(begin)
        complete.append(free)
    found = outcome(plan, slot_ns=submit, submit_ns=submit, complete_ns=complete)
    lane = Recorder(plan, found, Mode.OPEN).lane(0, Tier.NVME)
    assert lane.service["p95"] == pytest.approx(service, rel=1 / 256)
    assert lane.service.max == stall
    exact = sorted(c - i * gap for i, c in enumerate(complete))
    assert lane.response is not None
    assert exact[49] <= lane.response["p50"] <= exact[49] * (1 + 1 / 256)
    assert lane.response.max == stall
    assert lane.lateness.slot_wait.max == stall - gap


def test_throughput_counts_what_completed_before_the_last_submit() -> None:
    """Bytes completed in [start, last submit] ÷ that window; the rest drains."""
    plan, _ = make_plan(reads(4, 1000, size=4096))
    found = outcome(plan, submit_ns=[0, 1000, 2000, 3000], complete_ns=[500, 1500, 3500, 9000])
    lane = Recorder(plan, found, Mode.OPEN).lane(0, Tier.NVME)
    assert (lane.window_ns, lane.drain_ns, lane.window_bytes) == (3000, 6000, 2 * 4096)
    assert lane.bytes_per_s == pytest.approx(2 * 4096 * 1e9 / 3000)
    assert (lane.ops, lane.bytes) == (4, 4 * 4096)


def test_failed_ops_are_counted_and_in_no_percentile() -> None:
    """A failed op is an error with no latency; one that waited for it isn't executed."""
    plan, _ = make_plan(reads(3, 1000))
    found = outcome(
        plan,
        submit_ns=[0, 1000, -START - 1],
        complete_ns=[900_000_000, 1500, -START - 1],
        error=[5, 0, DEPENDENCY_FAILED],
    )
    lane = Recorder(plan, found, Mode.OPEN).lane(0, Tier.NVME)
    assert (lane.ops, lane.errors, lane.service.count, lane.service.max) == (1, 2, 1, 500)


def test_deletes_are_apart_and_have_no_latency() -> None:
    """Deletes are in a group of their own, without bytes or times."""
    plan, _ = make_plan(simple_rows(2, 4096))
    groups = {g.op: g for g in Recorder(plan, outcome(plan), Mode.OPEN).groups()}
    assert groups[D].service is None
    assert (groups[D].ops, groups[D].bytes) == (2, 0)
    assert groups[R].ops == 4
    assert groups[R].bytes == 4 * 4096


def test_violations_are_found_by_the_independent_checker() -> None:
    """A read submitted before its write completed, and a delete during a read, are both seen."""
    plan, _ = make_plan(simple_rows(1, 4096, gap_ns=1000))
    kept = outcome(plan, complete_ns=[500, 1500, 2500, 3000])
    assert count_violations(plan, kept) == 0
    broken = outcome(plan, complete_ns=[1001, 1500, 3500, 3000])
    assert count_violations(plan, broken) == 3  # the read by key and by place, the delete by key


def test_violations_across_tiers_are_found() -> None:
    """A demotion's write before its read, and its delete before its write, are seen."""
    rows: list[Row] = [
        (0, R, Tier.CPU, 1, Phase.EVICT, 4096),
        (10, W, Tier.NVME, 1, Phase.EVICT, 4096),
        (20, D, Tier.CPU, 1, Phase.EVICT, 4096),
    ]
    plan, _ = make_plan(rows, (Tier.CPU, Tier.NVME))
    assert count_violations(plan, outcome(plan, complete_ns=[5, 15, 20])) == 0
    assert count_violations(plan, outcome(plan, complete_ns=[11, 15, 20])) == 1
    assert count_violations(plan, outcome(plan, complete_ns=[5, 25, 20])) == 1


def test_in_flight_counts_overlapping_spans() -> None:
    """A span that ends where another begins doesn't overlap it."""
    begin, end = np.array([0, 5, 10]), np.array([10, 7, 12])
    assert in_flight_max(begin, end) == 2
    assert in_flight_max(np.zeros(0, np.int64), np.zeros(0, np.int64)) == 0
