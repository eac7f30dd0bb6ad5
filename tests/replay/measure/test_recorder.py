"""Lateness, throughput and percentiles of runs whose times were made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from kvtrace.trace.schema import Op, Phase, Tier
from replay.measure.histogram import Histogram
from replay.measure.lateness import Copier, Division, Submitter, divide
from replay.measure.recorder import Recorder
from replay.measure.violations import OrderChecker
from replay.ops.columns import DEPENDENCY_FAILED, Times
from replay.ops.contract import Mode
from replay.ops.counters import LaneCounters
from replay.ops.done import Done, Taker
from tests.support.finished import START, finished, reads, record
from tests.support.planner import make_planner
from tests.support.traces import Row, simple_rows

if TYPE_CHECKING:
    from replay.measure.figures import LaneDocument

R, W, D = Op.READ, Op.WRITE, Op.DELETE


def measured(done: Done, mode: Mode = Mode.OPEN) -> LaneDocument:
    """Return what the only lane did."""
    return record(done, mode).measure(0, Tier.NVME, (LaneCounters(),))


def violations(done: Done) -> int:
    """Return how many rules of order were broken."""
    checker = OrderChecker(1000)
    checker.add(done)
    return checker.count


def test_lateness_divides_into_dependency_slot_and_host() -> None:
    """Submit − due is what was waited for: predecessors, then a slot, then the tool."""
    found = finished(
        reads(3, 100_000),
        ready_ns=[0, 150_000, 200_000],
        slot_ns=[0, 170_000, 250_000],
        submit_ns=[7_000, 175_000, 250_000],
        complete_ns=[50_000, 200_000, 300_000],
    )
    lateness = measured(found).lateness_ns
    waits = divide(found, Mode.OPEN, Submitter(), None)
    assert waits.dependency_ns.tolist() == [0, 50_000, 0]
    assert waits.slot_ns.tolist() == [0, 20_000, 50_000]
    assert waits.host_ns.tolist() == [7_000, 5_000, 0]
    assert waits.burst_ns.tolist() == [0, 0, 0]
    assert lateness.max == 75_000
    parts = (
        lateness.dependency_wait_ns.max,
        lateness.slot_wait_ns.max,
        lateness.host_lateness_ns.max,
    )
    assert parts == (50_000, 50_000, 7_000)


def test_ops_due_at_once_wait_for_each_other() -> None:
    """Of a burst each op waits 10 µs for each before it; what is beyond is the tool's own."""
    rows = [*reads(3, 0), (100_000, R, Tier.NVME, 9, Phase.DECODE, 4096)]
    submit = [2_000, 9_000, 45_000, 101_000]
    found = finished(rows, submit_ns=submit, complete_ns=[200_000] * 4)
    waits = divide(found, Mode.OPEN, Submitter(), None)
    assert waits.burst_ns.tolist() == [0, 9_000, 20_000, 0]
    assert waits.host_ns.tolist() == [2_000, 0, 25_000, 1_000]
    assert divide(found, Mode.MAX, None, None).burst_ns.tolist() == [0] * 4
    lateness = measured(found).lateness_ns
    assert (lateness.burst_wait_ns.max, lateness.host_lateness_ns.max, lateness.max) == (
        20_000,
        25_000,
        45_000,
    )


def test_long_ops_of_a_burst_take_their_bytes() -> None:
    """A long op takes what its bytes take at 25 GB/s."""
    size = 4096 * 1000
    late = size // 25 + 5_000
    rows = reads(2, 0, size=size)
    found = finished(rows, submit_ns=[0, late], complete_ns=[1_000_000] * 2)
    waits = divide(found, Mode.OPEN, Submitter(), None)
    assert (waits.burst_ns.tolist(), waits.host_ns.tolist()) == ([0, size // 25], [0, 5_000])


def test_waiting_for_a_memory_targets_copier_is_slot_wait() -> None:
    """Two ops due at once where one is done at a time: the second waits for a slot."""
    found = finished(reads(2, 0), submit_ns=[0, 52_000], complete_ns=[50_000, 90_000])
    waits = divide(found, Mode.OPEN, Submitter(), Copier())
    assert (waits.slot_ns.tolist(), waits.host_ns.tolist()) == ([0, 50_000], [0, 2_000])
    assert divide(found, Mode.OPEN, Submitter(), None).slot_ns.tolist() == [0, 0]


def test_max_mode_has_no_response_time_and_no_dependency_wait() -> None:
    """In max mode an op is due when it is ready."""
    found = finished(
        reads(2, 1000),
        Mode.MAX,
        ready_ns=[0, 10],
        slot_ns=[0, 30],
        submit_ns=[1, 31],
        complete_ns=[5, 50],
    )
    lane = measured(found, Mode.MAX)
    assert lane.response_ns is None
    assert lane.lateness_ns.dependency_wait_ns.max == 0
    assert lane.lateness_ns.slot_wait_ns.max == 20


def test_a_stall_shows_in_response_and_not_in_service() -> None:
    """One op of 1 s at depth 1 delays the 99 after it: their response has it, service doesn't."""
    gap, service, stall = 10_000_000, 1_000_000, 1_000_000_000
    submit, complete, free = [], [], 0
    for index in range(100):
        begin = max(index * gap, free)
        free = begin + (stall if index == 0 else service)
        submit.append(begin)
        complete.append(free)
    lane = measured(
        finished(reads(100, gap), slot_ns=submit, submit_ns=submit, complete_ns=complete)
    )
    assert lane.service_ns["p95"] == pytest.approx(service, rel=1 / 256)
    assert lane.service_ns.max == stall
    exact = sorted(c - i * gap for i, c in enumerate(complete))
    assert lane.response_ns is not None
    assert exact[49] <= lane.response_ns["p50"] <= exact[49] * (1 + 1 / 256)
    assert lane.response_ns.max == stall
    assert lane.lateness_ns.slot_wait_ns.max == stall - gap


def test_throughput_counts_what_completed_before_the_last_submit() -> None:
    """Bytes completed in [start, last submit] ÷ that window; the rest drains."""
    rows = reads(4, 1000, size=4096)
    found = finished(rows, submit_ns=[0, 1000, 2000, 3000], complete_ns=[500, 1500, 3500, 9000])
    lane = measured(found)
    assert (lane.window_ns, lane.drain_s, lane.window_bytes) == (3000, 6000 / 1e9, 2 * 4096)
    assert lane.throughput_bytes_per_s == pytest.approx(2 * 4096 * 1e9 / 3000)
    assert (lane.ops, lane.bytes) == (4, 4 * 4096)


def test_failed_ops_are_counted_and_in_no_percentile() -> None:
    """A failed op is an error with no latency; one that waited for it isn't executed."""
    found = finished(
        reads(3, 1000),
        submit_ns=[0, 1000, -START - 1],
        complete_ns=[900_000_000, 1500, -START - 1],
        error=[5, 0, DEPENDENCY_FAILED],
    )
    lane = measured(found)
    assert (lane.ops, lane.errors, lane.service_ns.count, lane.service_ns.max) == (1, 2, 1, 500)


def test_deletes_are_apart_and_have_no_latency() -> None:
    """Deletes are in a group of their own, without bytes or times."""
    found = record(finished(simple_rows(2, 4096)))
    groups = {group.op: group for group in found.groups().whole}
    assert groups["delete"].service_ns is None
    assert (groups["delete"].ops, groups["delete"].bytes) == (2, 0)
    assert groups["read"].ops == 4
    assert groups["read"].bytes == 4 * 4096


def test_violations_are_found_by_the_independent_checker() -> None:
    """A read submitted before its write completed, and a delete during a read, are both seen."""
    rows = simple_rows(1, 4096, gap_ns=1000)
    assert violations(finished(rows, complete_ns=[500, 1500, 2500, 3000])) == 0
    # The read by key and by place, the delete by key.
    assert violations(finished(rows, complete_ns=[1001, 1500, 3500, 3000])) == 3


def test_violations_across_tiers_are_found() -> None:
    """A demotion's write before its read, and its delete before its write, are seen."""
    rows: list[Row] = [
        (0, R, Tier.CPU, 1, Phase.EVICT, 4096),
        (10, W, Tier.NVME, 1, Phase.EVICT, 4096),
        (20, D, Tier.CPU, 1, Phase.EVICT, 4096),
    ]
    assert violations(finished(rows, complete_ns=[5, 15, 20])) == 0
    assert violations(finished(rows, complete_ns=[11, 15, 20])) == 1
    assert violations(finished(rows, complete_ns=[5, 25, 20])) == 1


@pytest.mark.slow
def test_the_checker_remembers_as_far_as_its_reach() -> None:
    """With more keys than it has room for, recent ones are kept and their breaches found."""
    rows: list[Row] = []
    for key in range(9_000):
        rows += [
            (key, W, Tier.NVME, key, Phase.PREFILL, 4096),
            (key, R, Tier.NVME, key, Phase.DECODE, 4096),
        ]
    done = finished(rows, complete_ns=[row[0] + 1 for row in rows])
    checker = OrderChecker(100)
    for begin in range(0, len(done), 500):
        checker.add(done.select(np.arange(begin, begin + 500)))
    assert checker.count == 2 * 9_000  # each read, by key and by place
    assert checker._keys.table.capacity < 9_000


def test_measuring_in_parts_is_measuring_whole() -> None:
    """Taken a few at a time, figures are those of all at once."""
    rng = np.random.default_rng(3)
    rows = reads(2_000, 5_000)
    due = np.arange(2_000) * 5_000
    slot = due + rng.integers(0, 200_000, 2_000) * (rng.random(2_000) < 0.1)
    submit = slot + rng.integers(0, 30_000, 2_000)
    done = finished(
        rows, slot_ns=slot, submit_ns=submit, complete_ns=submit + rng.integers(1, 10**6, 2_000)
    )
    whole = record(done)
    parts = Recorder(1, Mode.OPEN, START)
    for begin in range(0, 2_000, 37):
        parts.add(done.select(np.arange(begin, min(2_000, begin + 37))))
    parts.finish()
    one = whole.measure(0, Tier.NVME, (LaneCounters(),))
    other = parts.measure(0, Tier.NVME, (LaneCounters(),))
    assert one.lateness_ns == other.lateness_ns
    assert (one.service_ns, one.response_ns) == (other.service_ns, other.response_ns)
    assert (one.window_bytes, one.window_ns) == (other.window_bytes, other.window_ns)
    assert one.time_slices == other.time_slices


def test_warm_up_is_in_no_figure_but_the_errors() -> None:
    """Ops due before the window's begin are left out; throughput begins there."""
    found = finished(
        reads(10, 1_000_000),
        complete_ns=[i * 1_000_000 + 500_000 for i in range(10)],
        error=[5] + [0] * 9,
    )
    lane = record(found, warmup_ns=4_000_000).measure(0, Tier.NVME, (LaneCounters(),))
    assert (lane.ops, lane.warmup_ops, lane.errors) == (6, 4, 1)
    assert (lane.service_ns.count, lane.window_ns, lane.window_ops) == (6, 5_000_000, 5)


def test_groups_by_qos_and_size_add_up_to_the_whole() -> None:
    """Where the trace knows a request's urgency and sizes differ, each has its own figures."""
    rows: list[Row] = [
        (i, R, Tier.NVME, i, Phase.DECODE, 4096 if i % 3 else 65_536) for i in range(12)
    ]
    trace_qos = np.array([0, 1] * 6, np.uint8)
    planner, ring = make_planner(rows, qos=trace_qos)
    while planner.advance(0):
        pass
    times = Times.empty(ring.capacity)
    for column in (times.ready_ns, times.slot_ns, times.submit_ns):
        column[:] = START
    times.complete_ns[:] = START + 1000
    found = record(Taker(ring, times, Mode.OPEN).take(0, 12, START)).groups()
    assert [(g.ops, g.qos) for g in found.whole] == [(12, None)]
    assert [(g.ops, g.qos) for g in found.by_qos] == [(6, "interactive"), (6, "responsive")]
    assert [(g.size_class_bytes, g.ops) for g in found.by_size] == [(4096, 8), (65_536, 4)]


def test_slices_double_when_a_run_outgrows_them() -> None:
    """A long run has at most 512 slices, and their sums are the run's."""
    seconds = 300
    rows = reads(seconds, 10**9)
    found = finished(rows, complete_ns=[i * 10**9 + 5 * 10**8 for i in range(seconds)])
    slices = measured(found).time_slices
    assert slices.width_s == 1
    assert len(slices.reads) <= 512
    assert sum(slices.reads) == seconds
    assert slices.in_flight_mean[10] == pytest.approx(0.5)


@pytest.mark.parametrize("copies", [False, True])
@pytest.mark.parametrize("batch", [1, 7, 100, 400])
def test_batches_make_no_difference_to_how_lateness_divides(
    monkeypatch: pytest.MonkeyPatch, batch: int, copies: bool
) -> None:
    """Ops could start in another order than the trace's; those that come late are waited for."""
    monkeypatch.setattr("replay.measure.lateness.KEPT", 64)
    rng = np.random.default_rng(5)
    ready = np.arange(400) * 8_000 + rng.integers(0, 200_000, 400)
    submit = np.sort(ready + rng.integers(0, 30_000, 400))
    found = finished(
        reads(400, 5_000), ready_ns=ready, slot_ns=ready, submit_ns=np.maximum(submit, ready),
        complete_ns=np.maximum(submit, ready) + 5_000,
    )  # fmt: skip
    whole = divide(found, Mode.CLOSED, Submitter(), Copier() if copies else None)
    division = Division(Mode.CLOSED, copies=copies)
    host = np.zeros(400, np.int64)
    held = 0
    for begin in range(0, 400, batch):
        part = found.select(np.arange(begin, min(400, begin + batch)))
        held += len(part)
        for done, waits in division.add(part, np.ones(len(part), bool)):
            host[done.number] = waits.host_ns
            held -= len(done)
        assert held <= 2 * 64
    for done, waits in division.finish():
        host[done.number] = waits.host_ns
    assert host.tolist() == whole.host_ns.tolist()
    assert host.any()
    for histogram, part in zip(division.histograms, (whole.dependency_ns, whole.slot_ns,
                               whole.burst_ns, whole.host_ns), strict=True):  # fmt: skip
        assert histogram.summary() == Histogram.of(part).summary()


def test_without_a_schedule_nothing_is_kept_back() -> None:
    """In max mode ops have no order to be put in."""
    found = finished(reads(3, 0), Mode.MAX)
    division = Division(Mode.MAX, copies=False)
    assert sum(len(done) for done, _ in division.add(found, np.ones(3, bool))) == 3
