"""Whole runs on real targets, through the public interface."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest

import replay
import replay.engine
from kvtrace.errors import TargetError, TraceError, UsageError
from kvtrace.trace.header import Header
from kvtrace.trace.reader import open_trace
from kvtrace.trace.schema import Op, Phase, Tier
from replay import ReplayOptions, Stop, TargetSpec
from replay.execution.output import Outputs
from replay.safety.marker import Marker
from replay.watch import RunInterruptedError, Silent
from tests.support.traces import MIB, Row, file_target, null_target, simple_rows, write_trace

if TYPE_CHECKING:
    from pathlib import Path

R, W, D, L = Op.READ, Op.WRITE, Op.DELETE, Op.LOOKUP
Quick = Callable[..., ReplayOptions]
NOT_OURS = {"host_lateness", "device_shared"}
"""Reasons that a busy test machine may give."""


def reasons(result: replay.Result) -> set[str]:
    """Return why a result is INVALID, less what the test machine is to blame for."""
    return {reason.code for reason in result.verdict.reasons} - NOT_OURS


def all_tiers() -> list[Row]:
    """A block goes down through all tiers; deletes, lookups and another read."""
    size = 8192
    return [
        (0, W, Tier.GPU, 1, Phase.PREFILL, size),
        (10_000, R, Tier.GPU, 1, Phase.EVICT, size),
        (10_000, W, Tier.CPU, 1, Phase.EVICT, size),
        (10_000, D, Tier.GPU, 1, Phase.EVICT, size),
        (20_000, R, Tier.CPU, 1, Phase.EVICT, size),
        (20_000, W, Tier.NVME, 1, Phase.EVICT, size),
        (20_000, D, Tier.CPU, 1, Phase.EVICT, size),
        (30_000, L, Tier.NVME, 1, Phase.DECODE, 0),
        (30_000, R, Tier.NVME, 1, Phase.DECODE, size),
        (30_000, R, Tier.NVME, 2, Phase.DECODE, size),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["python", "auto"])
def test_a_file_run_is_valid_end_to_end(direct_path: Path, quick: Quick, engine: str) -> None:
    """Populate, write, read, verify, delete, reuse: every op executed, every read checked."""
    rows = simple_rows(20, 48 << 10)
    rows += [(rows[-1][0] + 1000, R, Tier.NVME, 1000 + i, Phase.DECODE, 4096) for i in range(5)]
    trace = write_trace(direct_path / "t.parquet", rows)
    result = replay.run(
        trace, [file_target(direct_path / "target")], quick(engine=engine, verify="full")
    )
    assert reasons(result) == set()
    assert (result.ops, result.errors) == (85, {})
    assert result.bytes == 60 * (48 << 10) + 5 * 4096
    assert (result.populated.objects, result.populated.bytes) == (5, 5 * 4096)
    assert result.payload.verified_ops == 45
    assert result.fidelity.order_violations == 0
    assert [lane.tier for lane in result.lanes] == ["nvme"]
    assert result.headline.service_ns.count == 65


def test_null_target_executes_all_tiers_of_the_trace(tmp_path: Path, quick: Quick) -> None:
    """Without --tiers the null target stands for every tier that has rows, and for no other."""
    trace = write_trace(tmp_path / "t.parquet", all_tiers())
    result = replay.run(trace, [null_target()], quick())
    assert [lane.tier for lane in result.lanes] == ["gpu", "cpu", "nvme"]
    assert result.ops == 10
    assert result.document().not_executed == []
    assert reasons(result) == set()
    assert result.payload.kind == "none"
    assert {(g.tier, g.op): g.ops for g in result.groups}["nvme", "lookup"] == 1


def test_other_tiers_are_reported_and_only_named_ones_invalidate(
    tmp_path: Path, quick: Quick
) -> None:
    """What has no target is counted beside the result; INVALID only if --tiers named it."""
    trace = write_trace(tmp_path / "t.parquet", all_tiers())
    memory = TargetSpec("memory", (Tier.CPU,))
    result = replay.run(trace, [memory], quick())
    assert {part.tier: (part.ops, part.bytes) for part in result.document().not_executed} == {
        "gpu": (3, 2 * 8192),
        "nvme": (4, 3 * 8192),
    }
    assert reasons(result) == set()
    named = replay.run(trace, [memory], quick(tiers=(Tier.CPU, Tier.NVME)))
    assert reasons(named) == {"tier_not_executed"}


@pytest.mark.slow
def test_memory_and_file_lanes_run_side_by_side(direct_path: Path, quick: Quick) -> None:
    """Demotions go from the memory target's lane to the file's, in order, and verify."""
    rows: list[Row] = []
    for key in range(30):
        for op, tier, phase in (
            (W, Tier.CPU, Phase.PREFILL),
            (R, Tier.CPU, Phase.EVICT),
            (W, Tier.NVME, Phase.EVICT),
            (D, Tier.CPU, Phase.EVICT),
            (R, Tier.NVME, Phase.DECODE),
        ):
            rows.append((len(rows) * 1000, op, tier, key, phase, 20_000))
    trace = write_trace(direct_path / "t.parquet", rows)
    specs = [TargetSpec("memory", (Tier.CPU,)), file_target(direct_path / "target")]
    for mode in ("open", "max"):
        result = replay.run(trace, specs, quick(mode=mode, verify="full"))
        assert reasons(result) == set()
        assert [lane.ops for lane in result.lanes] == [90, 60]
        assert result.fidelity.order_violations == 0
        assert (result.headline.response_ns is None) == (mode == "max")


@pytest.mark.slow
def test_a_run_id_repeats_a_run_byte_for_byte(direct_path: Path, quick: Quick) -> None:
    """Two runs of one id leave identical files, and another id other bytes."""
    rows = simple_rows(6, 16 << 10)[:-1]
    rows += [(rows[-1][0], R, Tier.NVME, 77, Phase.DECODE, 4096)]
    trace = write_trace(direct_path / "t.parquet", rows)

    def digest(name: str, run_id: int, engine: str) -> str:
        path = direct_path / name
        replay.run(trace, [file_target(path)], quick(run_id=run_id, engine=engine))
        return hashlib.sha256(path.read_bytes()).hexdigest()

    first = digest("a", 7, "auto")
    assert digest("b", 7, "auto") == first
    assert digest("c", 7, "python") == first
    assert digest("d", 8, "auto") != first


@pytest.mark.slow
def test_the_target_carries_our_header_and_may_be_used_again(
    direct_path: Path, quick: Quick
) -> None:
    """A second run finds the marker, doesn't fill again, and overwrites."""
    trace = write_trace(direct_path / "t.parquet", simple_rows(4))
    path = direct_path / "target"
    first = replay.run(trace, [file_target(path)], quick(run_id=9))
    assert first.populated.fill_bytes > 0
    marker = Marker.unpack(path.read_bytes()[:4096])
    assert marker is not None
    assert (marker.run_id, marker.trace_sha256) == (9, open_trace(trace).sha256())
    second = replay.run(trace, [file_target(path)], quick(run_id=10))
    assert second.populated.fill_bytes == 0
    again = Marker.unpack(path.read_bytes()[:4096])
    assert again is not None
    assert again.run_id == 10


def test_a_read_only_run_needs_no_permission_to_write(direct_path: Path, quick: Quick) -> None:
    """A trace of reads with --populate none opens the target O_RDONLY and changes nothing."""
    path = direct_path / "foreign"
    path.write_bytes(os.urandom(4 * MIB))
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    rows: list[Row] = [(i, R, Tier.NVME, i, Phase.DECODE, 4096) for i in range(8)]
    trace = write_trace(direct_path / "t.parquet", rows)
    result = replay.run(trace, [file_target(path)], quick(populate="none"))
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before
    assert reasons(result) == {"unwritten"}
    assert result.payload.verify == "none"
    assert result.ops == 8


def test_reads_beyond_what_was_written_are_invalid(direct_path: Path, quick: Quick) -> None:
    """A read past the end of the written part is no measurement of storage."""
    rows: list[Row] = [
        (0, W, Tier.NVME, 1, Phase.PREFILL, 4096),
        (1, R, Tier.NVME, 1, Phase.DECODE, 8192),
    ]
    trace = write_trace(direct_path / "t.parquet", rows)
    result = replay.run(trace, [file_target(direct_path / "t")], quick())
    assert "unwritten" in reasons(result)


class Corrupter(Silent):
    """Damages a file between populate and the run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def stage(self, name: str, total: int | None) -> None:
        """Zero all extents when the run begins."""
        if name == "replaying":
            with self.path.open("r+b") as file:
                file.seek(MIB)
                file.write(b"\0" * MIB)
                file.flush()
                os.fsync(file.fileno())


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["python", "auto"])
def test_wrong_bytes_name_object_offset_and_what_was_found(
    direct_path: Path, quick: Quick, engine: str
) -> None:
    """A populated object that was overwritten by zeros: INVALID, and the object is named."""
    rows: list[Row] = [(i, R, Tier.NVME, 500 + i, Phase.DECODE, 8192) for i in range(3)]
    trace = write_trace(direct_path / "t.parquet", rows)
    path = direct_path / "target"
    result = replay.run(trace, [file_target(path)], quick(engine=engine), watcher=Corrupter(path))
    assert reasons(result) == {"verify_failed", "nothing_measured"}
    assert result.errors == {"verify_failed": 3}
    assert result.payload.mismatched_ops == 3
    assert "object 500, byte 0" in result.payload.mismatches[0]
    assert "only zeros" in result.payload.mismatches[0]
    assert result.headline.service_ns.count == 0


class Stopper(Silent):
    """Sets a stop when a stage begins."""

    def __init__(self, stop: Stop, stage: str) -> None:
        self.stop, self.wanted = stop, stage

    def stage(self, name: str, total: int | None) -> None:
        """Stop at the stage that was asked for."""
        if name == self.wanted:
            self.stop.set()


def test_an_interrupted_run_gives_a_partial_result(direct_path: Path, quick: Quick) -> None:
    """Stopped when it begins: INVALID (interrupted), what didn't run is marked as such."""
    trace = write_trace(direct_path / "t.parquet", simple_rows(4, gap_ns=10**9))
    stop = Stop()
    result = replay.run(
        trace,
        [file_target(direct_path / "target")],
        quick(),
        watcher=Stopper(stop, "replaying"),
        stop=stop,
    )
    assert "interrupted" in reasons(result)
    assert result.errors["interrupted"] >= 15


@pytest.mark.parametrize("stage", ["surveying", "planning"])
def test_stopping_before_the_run_measures_nothing(
    direct_path: Path, quick: Quick, stage: str
) -> None:
    """Stopped while preparing: an error of its own kind, with exit code 5."""
    rows: list[Row] = [(0, R, Tier.NVME, 1, Phase.DECODE, 4096)]
    trace = write_trace(direct_path / "t.parquet", rows)
    stop = Stop()
    with pytest.raises(RunInterruptedError) as caught:
        replay.run(
            trace,
            [file_target(direct_path / "target")],
            quick(),
            watcher=Stopper(stop, stage),
            stop=stop,
        )
    assert caught.value.exit_code == 5
    assert not (direct_path / "target").exists()


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["filling file", "populating", "settling"])
def test_stopping_while_the_target_is_prepared_has_a_result(
    direct_path: Path, quick: Quick, stage: str
) -> None:
    """The target is there and was written to: a result says that nothing was measured."""
    rows: list[Row] = [(0, R, Tier.NVME, 1, Phase.DECODE, 4096)]
    trace = write_trace(direct_path / "t.parquet", rows)
    stop = Stop()
    result = replay.run(
        trace,
        [file_target(direct_path / "target")],
        quick(settle_ns=10**9),
        watcher=Stopper(stop, stage),
        stop=stop,
    )
    assert {"interrupted", "nothing_measured"} <= reasons(result)
    assert result.errors == {"interrupted": 1}
    assert not result.verdict.acceptable


@pytest.mark.slow
def test_the_result_is_a_trace(direct_path: Path, quick: Quick, tmp_path: Path) -> None:
    """It has the executed rows with their times, reads back, and can be replayed again."""
    trace = write_trace(
        direct_path / "t.parquet", all_tiers(), resident=[(Tier.NVME, 2, 8192), (Tier.CPU, 3, 9)]
    )
    with open_trace(trace) as opened:
        out = tmp_path / "result.parquet"
        outputs = Outputs((trace,), out, ())
        outputs.open(opened)
        target = file_target(direct_path / "target")
        result = replay.run(opened, [target], quick(), journal=outputs)
        outputs.write(result)
    with open_trace(out) as again:
        assert again.rows == 4
        assert {"due", "submit", "complete", "error"} <= set(again.columns)
        assert again.resident()["key"].tolist() == [2]
        frame = again.lazy().collect()
        assert (frame["submit"] >= frame["due"]).all()
        assert (frame["complete"] >= frame["submit"]).all()
        assert frame["error"].to_list() == [0] * 4
        assert frame["timestamp"].to_list() == [20_000, 30_000, 30_000, 30_000]
        repeated = replay.run(again, [null_target()], quick())
    assert repeated.ops == 4
    table = result.table()
    assert table["complete"].to_list() == frame["complete"].to_list()
    assert table.schema["op"] == pl.Enum(["read", "write", "delete", "lookup"])


def test_without_the_compiled_loop_python_is_used_and_said(
    tmp_path: Path, quick: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fallback is in the result with what it costs; asking for what isn't there is refused."""
    for engine in (replay.engine.uring, replay.engine.threads):
        monkeypatch.setattr(type(engine), "available", lambda _: "no compiler")
    trace = write_trace(tmp_path / "t.parquet", simple_rows(2))
    result = replay.run(trace, [null_target()], quick())
    assert result.tool.engine == "python"
    assert "not uring: no compiler; not threads: no compiler" in result.tool.engine_note
    assert "python_engine" in {warning.code for warning in result.verdict.warnings}
    with pytest.raises(TargetError, match=r"uring isn't available.*no compiler"):
        replay.run(trace, [null_target()], quick(engine="uring"))


def test_speed_divides_due_times(tmp_path: Path, quick: Quick) -> None:
    """Twice as fast: half the schedule."""
    trace = write_trace(tmp_path / "t.parquet", simple_rows(5, gap_ns=1000))
    result = replay.run(trace, [null_target()], quick(speed=2.0))
    assert result.table()["due"].to_list() == list(range(0, 10_000, 500))


def test_tokens_come_from_the_header(tmp_path: Path, quick: Quick) -> None:
    """KV tokens/s are bytes ÷ bytes per token; the other figure uses generated tokens."""
    header = Header(
        model={"name": "tiny-1b"},
        layout={"stored_bytes_per_token": 24_576},
        statistics={"generated_tokens": 100},
    )
    rows = simple_rows(5, size=1 << 20)
    trace = write_trace(tmp_path / "t.parquet", rows, header=header)
    result = replay.run(trace, [TargetSpec("null", (Tier.NVME,))], quick())
    assert result.bytes_per_s is not None
    assert result.kv_tokens_per_s == pytest.approx(result.bytes_per_s / 24_576)
    plain = replay.run(
        write_trace(tmp_path / "p.parquet", rows), [TargetSpec("null", (Tier.NVME,))], quick()
    )
    assert plain.kv_tokens_per_s is None
    assert plain.document().storage_throughput_tokens_per_sec is None


def test_zero_executed_ops_is_an_error(tmp_path: Path, quick: Quick, direct_path: Path) -> None:
    """No rows at all, none within the limit, or none of an executed tier: never a success."""
    empty = write_trace(tmp_path / "empty.parquet", [])
    with pytest.raises(TraceError, match="no rows"):
        replay.run(empty, [null_target()], quick())
    late = write_trace(tmp_path / "late.parquet", [(50, R, Tier.CPU, 1, Phase.DECODE, 10)])
    with pytest.raises(UsageError, match="--limit leaves no rows"):
        replay.run(late, [null_target()], quick(limit_ns=10))
    with pytest.raises(UsageError, match=r"nothing to execute.*the trace's tiers: cpu"):
        replay.run(late, [file_target(direct_path / "target")], quick())
    assert not (direct_path / "target").exists()


def test_two_targets_for_a_tier_are_refused(tmp_path: Path, quick: Quick) -> None:
    """A tier has one target."""
    trace = write_trace(tmp_path / "t.parquet", all_tiers())
    with pytest.raises(UsageError, match="two targets for tier cpu"):
        replay.run(trace, [null_target(), TargetSpec("memory", (Tier.CPU,))], quick())


def test_a_live_set_that_does_not_fit_is_refused_before_anything_is_made(
    direct_path: Path, quick: Quick
) -> None:
    """A file that is too small: the figures are in the message, and no file appears."""
    rows: list[Row] = [(i, W, Tier.NVME, i, Phase.PREFILL, MIB) for i in range(8)]
    trace = write_trace(direct_path / "t.parquet", rows)
    path = direct_path / "target"
    with pytest.raises(
        TargetError, match=r"smaller than.*3\.00 MiB for extents.*8\.40 MiB: live at most 8\.00 MiB"
    ):
        replay.run(trace, [file_target(path, size_bytes=4 * MIB)], quick())
    assert not path.exists()


def test_reuse_under_pressure_keeps_order_at_full_depth(direct_path: Path, quick: Quick) -> None:
    """No spare space, many lives, max mode: reused extents never mix up bytes."""
    rng = np.random.default_rng(5)
    rows: list[Row] = []
    live: list[int] = []
    for key in range(300):
        if len(live) == 8:
            gone = live.pop(int(rng.integers(8)))
            rows.append((len(rows), R, Tier.NVME, gone, Phase.DECODE, 65_536))
            rows.append((len(rows), D, Tier.NVME, gone, Phase.EVICT, 65_536))
        rows.append((len(rows), W, Tier.NVME, key, Phase.PREFILL, 65_536))
        live.append(key)
    trace = write_trace(direct_path / "t.parquet", rows)
    options = quick(mode="max", slack_ratio=0.0, verify="full", io_size_bytes=16_384)
    result = replay.run(trace, [file_target(direct_path / "target")], options)
    assert reasons(result) == set()
    assert result.fidelity.order_violations == 0
    assert result.payload.verified_ops == 292
