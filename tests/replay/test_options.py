"""What each option of a run changes, through the public interface."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import replay
from kvtrace.errors import TargetError, UsageError
from kvtrace.trace.header import Header
from kvtrace.trace.schema import Op, Phase, Tier
from kvtrace.trace.writer import TraceWriter
from replay import ReplayOptions, TargetSpec
from replay.targets.support.simulated import faulty_target, stall_target
from tests.support.examples import rest_slow
from tests.support.runs import churning_rows, reasons, simulated
from tests.support.traces import MIB, Row, file_target, make_columns, simple_rows, write_trace

if TYPE_CHECKING:
    from pathlib import Path

R, W, D, L = Op.READ, Op.WRITE, Op.DELETE, Op.LOOKUP
NVME, CPU = Tier.NVME, Tier.CPU
Quick = Callable[..., ReplayOptions]
BUSY = {"host_lateness", "device_shared"}
"""Reasons that a busy test machine may give."""


@pytest.mark.slow
@pytest.mark.parametrize("seed", rest_slow(range(4)))
def test_all_modes_do_the_same_ops_in_order_whatever_the_delays(
    tmp_path: Path, quick: Quick, seed: int
) -> None:
    """Tight space, random delays, three modes, several threads: one multiset, no violation."""
    rows = churning_rows(seed)
    trace = write_trace(tmp_path / "t.parquet", rows)
    delays = np.random.default_rng(seed).integers(0, 200_000, 997).tolist()
    done: list[Any] = []
    for mode, threads in (("open", 1), ("closed", 1), ("max", 1), ("max", 3)):
        targets = [simulated(faulty_target({}, delays), tier) for tier in (CPU, NVME)]
        options = quick(mode=mode, threads=threads, slack_ratio=0.0, verify="full")
        result = replay.run(trace, targets, options)
        assert reasons(result) == set(), (mode, threads)
        assert result.fidelity.order_violations == 0
        table = result.table().select("op", "tier", "key", "size", "offset", "run", "error")
        done.append(table)
        space = [lane.space_needed_bytes for lane in result.lanes]
        ends = [int((table["offset"] + table["run"]).filter(table["tier"] == tier).max() or 0)
                for tier in ("cpu", "nvme")]  # type: ignore[arg-type]  # fmt: skip
        assert all(end <= size for end, size in zip(ends, space, strict=True))
    assert all(other.equals(done[0]) for other in done[1:])
    assert len(done[0]) == len(rows)


def test_faults_fail_what_depends_on_them_and_nothing_hangs(tmp_path: Path, quick: Quick) -> None:
    """EIO on one I/O, ENOSPC on another: counted by name, INVALID, the rest is done."""
    trace = write_trace(tmp_path / "t.parquet", simple_rows(400, 4096, gap_ns=1000))
    for mode in ("open", "closed", "max"):
        target = simulated(faulty_target({1000: -5, 1001: -28}))
        result = replay.run(trace, [target], quick(mode=mode, slack_ratio=10.0))
        assert reasons(result) == {"failed_ops"}
        assert result.errors["EIO"] == 1
        assert result.errors["ENOSPC"] == 1
        assert result.ops + sum(result.errors.values()) == 1600
        assert result.fidelity.order_violations == 0


@pytest.mark.slow
def test_a_stall_of_one_second_shows_as_computed_by_hand(tmp_path: Path, quick: Quick) -> None:
    """Depth 1, 1 ms of service every 10 ms, a stall of 1 s: service has one, response many."""
    gap, service, begin, end = 10_000_000, 1_000_000, 500_000_000, 1_500_000_000
    rows: list[Row] = [(i * gap, R, NVME, i, Phase.DECODE, 4096) for i in range(1_000)]
    trace = write_trace(tmp_path / "t.parquet", rows)
    target = simulated(stall_target(service, begin, end), virtual=True)
    result = replay.run(trace, [target], quick(queue_depth=1, populate="none", verify="none"))
    free, services, responses = 0, [], []
    for i in range(1_000):
        submit = max(i * gap, free)
        free = submit + service + (end - max(submit, begin) if begin <= submit < end else 0)
        services.append(free - submit)
        responses.append(free - i * gap)
    measure = result.headline
    assert measure.response_ns is not None
    for name, part in {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}.items():
        rank = int(np.ceil(1_000 * part)) - 1
        for found, exact in ((measure.service_ns, services), (measure.response_ns, responses)):
            wanted = sorted(exact)[rank]
            assert wanted <= found[name] <= wanted * (1 + 1 / 256), name
    assert (measure.service_ns.max, measure.response_ns.max) == (max(services), max(responses))


def session_trace(path: Path, *, gap_ns: int = 50_000_000) -> Path:
    """One session of three requests: each reads, then stores; the gaps are `gap_ns`."""
    rows: list[Row] = []
    request: list[int] = []
    step: list[int] = []
    for turn in range(3):
        at = turn * gap_ns
        rows += [
            (at, R, NVME, turn, Phase.DECODE, 4096),
            (at, W, NVME, 100 + turn, Phase.PREFILL, 4096),
        ]
        request += [turn, turn]
        step += [1, 2]
    columns = make_columns(rows, None) | {
        "request": np.array(request, np.uint64),
        "session": np.zeros(len(rows), np.uint64),
        "step": np.array(step, np.uint16),
    }
    with TraceWriter(path, Header(), ["request", "session", "step"], force=True) as writer:
        writer.append(columns)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("sync", "between"), [(False, 10), (True, 20)])
def test_a_closed_loop_follows_completions(
    tmp_path: Path, quick: Quick, sync: bool, between: int
) -> None:
    """Each group waits for the reads before it, then the gap; stores only with --sync-stores."""
    trace = session_trace(tmp_path / "t.parquet")
    target = simulated(stall_target(10_000_000), virtual=True)
    options = quick(mode="closed", sync_stores=sync, populate="none", verify="none")
    table = replay.run(trace, [target], options).table()
    reads = table.filter(table["op"] == "read")["submit"].to_list()
    steps = [later - earlier for earlier, later in itertools.pairwise(reads)]
    assert steps == [50_000_000 + between * 1_000_000] * 2
    stores = table.filter(table["op"] == "write")["submit"].to_list()
    assert [store - read for read, store in zip(reads, stores, strict=True)] == [10_000_000] * 3


def test_warm_up_is_left_out(tmp_path: Path, quick: Quick) -> None:
    """Ops due before the end of the warm-up are counted apart."""
    trace = write_trace(tmp_path / "t.parquet", simple_rows(10, 4096, gap_ns=1_000_000))
    target = simulated(stall_target(1_000), virtual=True)
    result = replay.run(trace, [target], quick(warmup_ns=20_000_000))
    assert result.headline.warmup_ops == 20
    assert result.ops == 20
    assert result.fidelity.phases[0].trace_ops == result.fidelity.phases[0].executed_ops


def test_several_loop_threads_share_a_target(direct_path: Path, quick: Quick) -> None:
    """Ops go to the threads in turn; all are verified, and the result says how many."""
    trace = write_trace(direct_path / "t.parquet", simple_rows(60, 16_384))
    options = quick(mode="max", threads=3, verify="full")
    result = replay.run(trace, [file_target(direct_path / "target")], options)
    assert reasons(result) == set()
    assert (result.ops, result.tool.threads) == (240, 3)
    assert result.payload.verified_ops == 120


def test_priority_says_what_was_obtained(tmp_path: Path, quick: Quick) -> None:
    """A priority that is refused isn't claimed."""
    trace = write_trace(tmp_path / "t.parquet", simple_rows(2))
    null = TargetSpec("null", tuple(Tier))
    assert replay.run(trace, [null], quick()).tool.priority == "none"
    for word in ("nice", "rt"):
        obtained = replay.run(trace, [null], quick(priority=word)).tool.priority
        assert obtained == word or obtained.startswith(f"none ({word} refused")


@pytest.mark.slow
def test_fresh_payload_is_generated_as_it_runs(direct_path: Path, quick: Quick) -> None:
    """More than the ring is written, verified by stamps, and the producer's time is reported."""
    trace = write_trace(direct_path / "t.parquet", simple_rows(60, MIB))
    spec = file_target(direct_path / "target")
    result = replay.run(trace, [spec], quick(payload="fresh", mode="max"))
    assert reasons(result) == set()
    assert (result.payload.kind, result.payload.verified_ops) == ("fresh", 120)
    assert result.tool.payload_cpu_s > 0
    with pytest.raises(UsageError, match="--verify full compares with the arena"):
        replay.run(trace, [spec], quick(payload="fresh", verify="full"))


@pytest.mark.slow
def test_reducible_payload_is_measured_where_it_landed(direct_path: Path, quick: Quick) -> None:
    """Ratios are those of a sample; duplicates mean no stamps, from the arena an INVALID run."""
    rows: list[Row] = [(i, W, NVME, i, Phase.PREFILL, MIB) for i in range(64)]
    trace = write_trace(direct_path / "t.parquet", rows)
    spec = file_target(direct_path / "target")
    plain = replay.run(trace, [spec], quick(mode="max"))
    assert plain.payload.measured is None
    smaller = replay.run(trace, [spec], quick(mode="max", compress_ratio=3))
    assert smaller.payload.stamped
    assert smaller.payload.measured is not None
    assert 2.0 < smaller.payload.measured.zstd1_ratio < 3.5
    double = replay.run(trace, [spec], quick(mode="max", dedup_ratio=2, payload="fresh"))
    assert not double.payload.stamped
    assert double.payload.measured is not None
    assert 1.7 < double.payload.measured.dedup_4k_ratio < 2.3
    assert reasons(double) == set()
    arena = replay.run(trace, [spec], quick(mode="max", dedup_ratio=2))
    assert reasons(arena) == {"payload_repeated"}


@pytest.mark.slow
def test_a_population_is_reused_until_a_run_changes_it(direct_path: Path, quick: Quick) -> None:
    """The same trace of reads takes it again; another id, or a run that writes, ends that."""
    rows: list[Row] = [(i, R, NVME, i, Phase.DECODE, 8192) for i in range(20)]
    trace = write_trace(direct_path / "t.parquet", rows)
    spec = file_target(direct_path / "target")
    first = replay.run(trace, [spec], quick(run_id=5))
    assert not first.populated.reused
    again = replay.run(trace, [spec], quick(run_id=None, reuse_populated=True))
    assert again.populated.reused
    assert (reasons(again), again.payload.run_id, again.payload.verified_ops) == (set(), 5, 20)
    with pytest.raises(TargetError, match="no earlier population"):
        replay.run(trace, [spec], quick(run_id=6, reuse_populated=True))
    writing = write_trace(direct_path / "w.parquet", [*rows, (99, W, NVME, 3, Phase.EVICT, 8192)])
    replay.run(writing, [spec], quick(run_id=5))
    with pytest.raises(TargetError, match="no earlier population"):
        replay.run(trace, [spec], quick(run_id=5, reuse_populated=True))


def test_a_population_that_isnt_there_is_refused_before_a_file_is_made(
    direct_path: Path, quick: Quick
) -> None:
    """On a new file nothing can be reused: nothing is written, nothing left."""
    rows: list[Row] = [(0, R, NVME, 1, Phase.DECODE, 8192), (1, W, NVME, 2, Phase.EVICT, 8192)]
    trace = write_trace(direct_path / "t.parquet", rows)
    with pytest.raises(TargetError, match="no earlier population"):
        replay.run(trace, [file_target(direct_path / "new")], quick(reuse_populated=True))
    assert not (direct_path / "new").exists()


@pytest.mark.slow
def test_io_latencies_and_time_slices_are_reported(direct_path: Path, quick: Quick) -> None:
    """Objects in several pieces: every I/O is in a size class, every op in a slice of time."""
    trace = write_trace(direct_path / "t.parquet", simple_rows(10, 3 * MIB))
    result = replay.run(trace, [file_target(direct_path / "target")], quick(mode="max"))
    lane = result.headline
    assert {group.size_class_bytes: group.count for group in lane.io_ns} == {MIB: 90}
    slices = lane.time_slices
    assert (sum(slices.reads), sum(slices.writes)) == (20, 10)
    assert sum(slices.read_bytes) == 20 * 3 * MIB
