"""Runs of a given length: --run-time ends them, --loop repeats the trace until then."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import replay
from kvtrace.errors import UsageError
from kvtrace.placement.extents import lane_of_tier
from kvtrace.placement.looped import Looped, loop
from kvtrace.placement.rows import TraceRows
from kvtrace.trace.reader import open_trace
from kvtrace.trace.schema import Op, Phase, Tier
from kvtrace.units import MS_NS, S_NS
from replay import ReplayOptions
from replay.execution.output import Outputs
from tests.support.making import write_rows
from tests.support.traces import (
    MemoryTrace,
    Resident,
    Row,
    file_target,
    null_target,
    simple_rows,
    write_trace,
)

if TYPE_CHECKING:
    from pathlib import Path

Quick = Callable[..., ReplayOptions]
R, W, D = Op.READ, Op.WRITE, Op.DELETE
CPU, NVME = Tier.CPU, Tier.NVME
TIERS = (CPU, NVME)
COLUMNS = ("timestamp", "op", "tier", "key", "phase", "size")


def rounds_of(rows: list[Row], count: int, resident: Resident = ()) -> list[list[Row]]:
    """Return what as many rounds do; deletes between two rounds are of the second."""
    trace: Any = MemoryTrace(rows, resident=resident)
    endless = loop(TraceRows(trace), lane_of_tier(TIERS))
    source = Looped(TraceRows(trace), endless.rows.turnover, count)
    made: list[list[Row]] = [[] for _ in range(count)]
    for chunk in source.chunks(COLUMNS):
        columns = [chunk.columns[name].tolist() for name in COLUMNS]
        made[chunk.round] += [
            (at, Op(op), Tier(tier), key, Phase(phase), size)
            for at, op, tier, key, phase, size in zip(*columns, strict=True)
        ]
    return made


@st.composite
def traces(draw: st.DrawFn) -> tuple[list[Row], Resident]:
    """Draw a good trace of two tiers: residents, reads of what is live, overwrites, deletes."""
    sizes = st.sampled_from([4096, 8192])
    live = {
        (tier, key): draw(sizes)
        for tier, key in draw(
            st.sets(st.tuples(st.sampled_from(TIERS), st.integers(0, 5)), max_size=6)
        )
    }
    resident = [(tier, key, size) for (tier, key), size in live.items()]
    rows: list[Row] = []
    for at in range(draw(st.integers(1, 30))):
        op = draw(st.sampled_from([R, W, W, D])) if live else W
        if op == W:
            place = (draw(st.sampled_from(TIERS)), draw(st.integers(0, 12)))
            live.setdefault(place, draw(sizes))
        else:
            place = draw(st.sampled_from(sorted(live)))
        rows.append((1000 + 10 * at, op, *place, Phase.EVICT, live[place]))
        if op == D:
            del live[place]
    return rows, resident


def follow(rows: list[Row], live: dict[tuple[Tier, int], int]) -> int:
    """Make `live` what is there behind rows; return the most bytes that ever were.

    Asserts that what is read is there, in its size; deletes of what isn't there do nothing.
    """
    peak = sum(live.values())
    for _, op, tier, key, _, size in rows:
        if op == R:
            assert live[tier, key] == size
        elif op == W:
            live[tier, key] = size
        else:
            assert live.pop((tier, key), size) == size
        peak = max(peak, sum(live.values()))
    return peak


def kinds(rows: list[Row]) -> Counter[tuple[Op, Tier, int]]:
    """Return how often rows do what, without names and times."""
    return Counter((op, tier, size) for _, op, tier, _, _, size in rows)


@pytest.mark.slow
@given(traces())
@settings(deadline=None)
def test_each_round_finds_what_the_first_one_found(made: tuple[list[Row], Resident]) -> None:
    """Reads find live objects of their size, time goes on, the live set doesn't grow."""
    rows, resident = made
    try:
        rounds = rounds_of(rows, 5, resident)
    except UsageError:  # nothing is left that may stand in for what it has deleted
        assume(False)
    live = {(tier, key): size for tier, key, size in resident}
    peaks = [follow(of_round, live) for of_round in rounds]
    assert max(peaks[1:]) <= peaks[0]
    times = [row[0] for of_round in rounds for row in of_round]
    assert times == sorted(times)
    for of_round in rounds:
        assert kinds(of_round[-len(rows) :]) == kinds(rows)
        assert all(row[1] == D for row in of_round[: -len(rows)])


def test_keys_are_fresh_in_each_round_and_what_was_there_before_is_kept() -> None:
    """A resident that stays is read under its key; new objects get new keys, the old ones go."""
    rows: list[Row] = [
        (0, R, NVME, 1, Phase.DECODE, 4096),
        (10, W, NVME, 2, Phase.EVICT, 8192),
        (20, R, NVME, 2, Phase.DECODE, 8192),
    ]
    first, second, third = rounds_of(rows, 3, [(NVME, 1, 4096)])
    assert first == rows
    ended, *again = second
    assert ended == (30, D, NVME, 2, Phase.EVICT, 8192)
    assert again[0] == (30, R, NVME, 1, Phase.DECODE, 4096)
    assert again[1][3] == again[2][3] != 2
    assert third[0][1:4] == (D, NVME, again[1][3])
    assert len({rows[1][3], again[1][3], third[2][3]}) == 3


def test_what_a_round_needs_and_the_one_before_deleted_is_replaced_by_its_like() -> None:
    """A slice of a full tier: it evicts what it finds and leaves as much; refused if too little."""
    rows: list[Row] = [
        (0, R, NVME, 1, Phase.DECODE, 4096),
        (10, D, NVME, 1, Phase.EVICT, 4096),
        (20, W, NVME, 2, Phase.EVICT, 4096),
    ]
    first, second, third = rounds_of(rows, 3, [(NVME, 1, 4096)])
    assert [row[1] for row in second] == [R, D, W]
    assert second[0][3] == first[2][3]
    assert third[0][3] == second[2][3]
    with pytest.raises(UsageError, match="can't follow itself"):
        rounds_of([*rows[:2], (20, W, NVME, 2, Phase.EVICT, 8192)], 2, [(NVME, 1, 4096)])


def mixed_rows(count: int) -> list[Row]:
    """Return writes of many sizes, each read; two of three are deleted."""
    rng = np.random.default_rng(1)
    rows: list[Row] = []
    for key in range(count):
        size = int(rng.integers(1, 40)) * 4096
        rows.append((len(rows) * 1000, W, NVME, key, Phase.EVICT, size))
        rows.append((len(rows) * 1000, R, NVME, key, Phase.DECODE, size))
        if key % 3:
            rows.append((len(rows) * 1000, D, NVME, key, Phase.EVICT, size))
    return rows


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "rows"),
    [("max", simple_rows(16)), ("max", mixed_rows(60)), ("closed", mixed_rows(60)),
     ("open", mixed_rows(60))],
    ids=["max, one size", "max", "closed", "open"],
)  # fmt: skip
def test_a_loop_reads_back_what_it_wrote(
    direct_path: Path, quick: Quick, mode: str, rows: list[Row]
) -> None:
    """Round after round on a file: all reads verified, in order, no op failed, counts add up."""
    trace = write_trace(direct_path / "t.parquet", rows)
    for run_time_ns in (S_NS, 5 * S_NS, 25 * S_NS):  # a busy disk needs longer for some rounds
        options = quick(mode=mode, loop=True, run_time_ns=run_time_ns, verify="full")
        result = replay.run(trace, [file_target(direct_path / "target")], options)
        if result.trace.rounds > 2:
            break
    codes = {reason.code for reason in result.verdict.reasons}
    assert codes <= {"host_lateness", "planner_stall", "device_shared"}
    assert result.trace.rounds > 2
    assert result.errors == {}
    assert result.fidelity.order_violations == 0
    assert result.payload.verified_ops > 2 * sum(row[1] == R for row in rows)
    assert result.headline.space_needed_bytes < 1.2 * result.headline.live_bytes_max + 8192


@pytest.mark.slow
def test_a_run_ends_when_its_time_is_over(tmp_path: Path, quick: Quick) -> None:
    """What wasn't begun is no error, no row of the result trace, and not executed."""
    rows = simple_rows(2000, gap_ns=MS_NS)
    trace = write_trace(tmp_path / "t.parquet", rows)
    out = tmp_path / "out.parquet"
    with open_trace(trace) as opened:
        outputs = Outputs((trace,), out, ())
        outputs.open(opened)
        options = quick(run_time_ns=300 * MS_NS, warmup_ns=100 * MS_NS)
        result = replay.run(opened, [null_target()], options, journal=outputs)
        outputs.write(result)
    codes = {reason.code for reason in result.verdict.reasons}
    assert codes <= {"host_lateness", "nothing_measured"}
    assert result.errors == {}
    assert 0 < result.trace.rows_replayed < len(rows)
    assert not result.trace.whole
    assert result.trace.rounds == result.trace.rows_replayed / len(rows)
    assert result.headline.window_ns < rows[-1][0]
    with open_trace(out) as again:
        assert again.rows == result.trace.rows_replayed
        assert again.lazy().select(pl.col("submit").null_count()).collect().item() == 0


@pytest.mark.slow
def test_a_run_that_ends_before_its_first_op_adds_up(tmp_path: Path, quick: Quick) -> None:
    """Nothing was measured, and that is the reason: rows not executed are all there are."""
    rows: list[Row] = [(60 * S_NS + at, W, NVME, at, Phase.EVICT, 4096) for at in range(5)]
    trace = write_trace(tmp_path / "t.parquet", rows)
    options = quick(run_time_ns=MS_NS, loop=True, min_window_ns=0)
    result = replay.run(trace, [null_target()], options)
    assert {reason.code for reason in result.verdict.reasons} == {"nothing_measured"}


def test_a_trace_that_ends_too_early_is_a_reason(tmp_path: Path, quick: Quick) -> None:
    """Ten seconds were asked for and the trace has 20 ms: INVALID, and what helps is named."""
    trace = write_trace(tmp_path / "t.parquet", simple_rows(5, gap_ns=MS_NS))
    result = replay.run(trace, [null_target()], quick(run_time_ns=10 * S_NS))
    (ended,) = [reason for reason in result.verdict.reasons if reason.code == "trace_ended"]
    took = re.fullmatch(
        r"the trace ended after (\S+) ms of the 10\.0 s of --run-time", ended.figure
    )
    assert took is not None, ended.figure
    # Its last op is due 18 ms after its first; how much later it starts is the machine's.
    assert float(took[1]) >= 18
    assert "--loop" in ended.remedy


def test_a_loop_needs_an_end() -> None:
    """Without a run time it would never end."""
    with pytest.raises(UsageError, match="--run-time"):
        ReplayOptions(loop=True)


def write_more(path: Path, rows: list[Row], **columns: Any) -> Path:
    """Write a trace of `rows` with optional columns; return its path."""
    ordered = [(at, op, size, tier, key, phase) for at, op, tier, key, phase, size in rows]
    return write_rows(path, ordered, **columns)


@pytest.mark.slow
def test_requests_of_each_round_are_their_own(tmp_path: Path, quick: Quick) -> None:
    """One request per object: they are counted round by round, and one cut off isn't failed."""
    rows = simple_rows(50, gap_ns=100_000)
    request = np.arange(len(rows), dtype=np.uint64) // 4
    trace = write_more(tmp_path / "t.parquet", rows, request=request)
    for mode in ("open", "closed"):
        for run_time_ns in (200 * MS_NS, 2 * S_NS, 20 * S_NS):  # a busy machine needs longer
            options = quick(mode=mode, loop=True, run_time_ns=run_time_ns)
            result = replay.run(trace, [null_target()], options)
            if result.trace.rounds > 2:
                break
        assert result.requests is not None
        assert result.requests.failed == 0
        # Closed loops keep their pace, too: no round begins before the recorded gap has passed.
        assert result.trace.rounds <= run_time_ns / (len(rows) * 100_000) + 2
        # Requests of the last round that were cut off count by what they had finished.
        assert 50 < result.requests.count <= 50 * (result.trace.rounds + 1)


def test_failed_ops_of_the_trace_are_no_rows_of_the_result(tmp_path: Path, quick: Quick) -> None:
    """They are left out of the replay; the rows beside the times are those that were done."""
    rows: list[Row] = [(at, W, NVME, key, Phase.EVICT, 4096) for at, key in enumerate((1, 2, 3, 4))]
    trace = write_more(tmp_path / "t.parquet", rows, error=np.array([0, 5, 0, 0], np.int32))
    out = tmp_path / "out.parquet"
    with open_trace(trace) as opened:
        outputs = Outputs((trace,), out, ())
        outputs.open(opened)
        result = replay.run(opened, [null_target()], quick(), journal=outputs)
        outputs.write(result)
    with open_trace(out) as again:
        assert again.lazy().select("key").collect()["key"].to_list() == [1, 3, 4]
