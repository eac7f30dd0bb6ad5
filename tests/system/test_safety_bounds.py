"""The part of a target that was given is a wall: no trace makes a write leave it."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest

from kvtrace.errors import TraceError
from kvtrace.trace.bounds import Bounds
from kvtrace.trace.check import check
from kvtrace.trace.header import RESIDENT_DTYPE, Header, pack_resident
from kvtrace.trace.reader import open_trace
from kvtrace.trace.schema import MAX_SIZE_BYTES, MAX_TIME_NS
from kvtrace.trace.writer import RESIDENT_KEY, TraceWriter
from replay.engine import native
from replay.engine.native import testing
from replay.engine.python import PythonEngine
from replay.ops.contract import Action, Lane, LaneKind, LoopOptions, Mode, Verify, run_whole
from tests.support.hostile import HOSTILE, NVME, parquet

if TYPE_CHECKING:
    from pathlib import Path

    from replay.ops.contract import Engine

KIB, MIB = 1 << 10, 1 << 20
EXTREMES = (0, 1 << 31, 1 << 32, 1 << 40, 1 << 48, 1 << 62, (1 << 63) - 1, (1 << 64) - 1)
ENGINES = [native.uring, native.threads, PythonEngine()]
BEGIN, END = 64 * KIB, 192 * KIB


def usable(engine: Engine) -> Engine:
    """Return the engine; skip the test with the reason where it can't be used."""
    if isinstance(engine, native.NativeEngine) and (reason := engine.available()) is not None:
        pytest.skip(reason)
    return engine


@pytest.mark.slow
@pytest.mark.parametrize("value", [offset for offset in EXTREMES if offset > MAX_SIZE_BYTES])
@pytest.mark.parametrize("name", ["offset", "size"])
def test_the_reader_refuses_an_end_beyond_the_limit(tmp_path: Path, name: str, value: int) -> None:
    """An object may end at 2^40 at most; the error names the row and the column."""
    path = parquet(tmp_path / "t.parquet", **{name: [1, value]})
    with open_trace(path) as trace, pytest.raises(TraceError) as caught:
        list(trace.batches(["size"]))
    assert f"row 1, column {name}: {name} out of range: got {value}" in str(caught.value)


def test_bytes_beyond_the_sum_are_refused() -> None:
    """The ends of all ops add up to 2^62 at most, so that no sum of bytes overflows."""
    bounds, sizes = Bounds("t"), np.full(1 << 20, MAX_SIZE_BYTES, np.uint64)
    for batch in range(4):
        bounds.check({"size": sizes}, batch << 20)
    with pytest.raises(TraceError, match=r"t: row 4194304, column size: .*too large in all"):
        bounds.check({"size": sizes[:1]}, 4 << 20)


def test_the_reader_refuses_times_that_no_clock_holds(tmp_path: Path) -> None:
    """Times are up to 2^62 ns; measured ones are so far from zero at most, either way."""
    for name, bad in (("timestamp", MAX_TIME_NS + 1), ("complete", -MAX_TIME_NS - 1)):
        path = parquet(tmp_path / f"{name}.parquet", **{name: [0, bad]})
        with open_trace(path) as trace, pytest.raises(TraceError, match=f"{name} out of range"):
            list(trace.batches())


def test_a_writer_writes_nothing_that_the_reader_would_refuse(tmp_path: Path) -> None:
    """A tool whose sums leave the format's bounds fails, and leaves no file."""
    columns = {name: values[None] for name, values in NVME.items()}
    columns["timestamp"] = np.array([MAX_TIME_NS + 1])
    with pytest.raises(TraceError, match="timestamp out of range"):  # noqa: SIM117
        with TraceWriter(tmp_path / "t.parquet", Header()) as writer:
            writer.append(columns)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
@pytest.mark.parametrize("kind", [LaneKind.FILE, LaneKind.MEMORY], ids=lambda kind: kind.name)
@pytest.mark.parametrize("action", [Action.READ, Action.WRITE], ids=lambda action: action.name)
def test_an_op_that_leaves_its_lane_is_not_done(
    tmp_path: Path, engine: Engine, kind: LaneKind, action: Action
) -> None:
    """Whatever offset and length were planned: ERANGE, and not a byte outside is changed."""
    usable(engine)
    before = np.random.default_rng(1).integers(0, 256, 256 * KIB, dtype=np.uint8)
    path = tmp_path / "target"
    path.write_bytes(before.tobytes())
    offsets = [at // 512 * 512 for at in EXTREMES] + [BEGIN - 512, END - 512, END, BEGIN]
    lengths = [512 * 2] * len(offsets)
    offsets += [BEGIN, BEGIN - 512, BEGIN]
    lengths += [END - BEGIN + 512, END - BEGIN, 512 * ((1 << 32) - 1)]
    extents = zip(offsets, lengths, strict=True)
    good = np.array([at >= BEGIN and at + length <= END for at, length in extents])
    ops = testing.make_ops(
        len(offsets), action=action, offset_bytes=offsets, length_bytes=lengths, arena_bytes=0
    )
    with path.open("r+b", buffering=0) as file:
        pool = before.copy() if kind == LaneKind.MEMORY else None
        fd = file.fileno() if kind == LaneKind.FILE else -1
        lane = Lane(kind, 8, 64 * KIB, fd=fd, pool=pool, begin_bytes=BEGIN, end_bytes=END)
        options = LoopOptions(Mode.MAX, np.zeros(MIB, np.uint8), 1, Verify.NONE)
        _, times = run_whole(engine, (lane,), ops, len(offsets), options)
    assert set(times.error[~good].tolist()) == {errno.ERANGE}
    assert not times.error[good].any()
    after = np.fromfile(path, np.uint8) if pool is None else pool
    changed = np.flatnonzero(after != before)
    assert len(after) == len(before)
    assert ((changed >= BEGIN) & (changed < END)).all()
    assert len(changed) > 0 or action == Action.READ


@pytest.mark.skipif(native.threads.available() is not None, reason="no compiled loop here")
def test_an_object_of_a_folder_ends_where_the_longest_does(tmp_path: Path) -> None:
    """A write beyond the longest object that was planned for makes no file."""
    ops = testing.make_ops(
        2, action=Action.WRITE, offset_bytes=[0, 1 << 40], length_bytes=4096, arena_bytes=0
    )
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        lane = Lane(LaneKind.DIR, 2, 4096, fd=fd, end_bytes=2048)
        options = LoopOptions(Mode.MAX, np.zeros(MIB, np.uint8), 1, Verify.NONE)
        _, times = run_whole(native.threads, (lane,), ops, 2, options)
    finally:
        os.close(fd)
    assert times.error.tolist() == [errno.ERANGE] * 2
    assert not list(tmp_path.rglob("*"))


SAMPLES = {
    "escape_size": "offset out of range",
    "segv_offset_2e63-4096": "offset out of range",
    "resident_dup": "listed twice",
    "resident_size263": "size out of range",
    "resident_tier255x2000": "tier out of range",
    "resident_tier4": "tier out of range",
}


@pytest.mark.parametrize("name", SAMPLES)
def test_hostile_samples_are_refused_before_anything_is_made(name: str) -> None:
    """The traces that wrote outside their part, and crashed compiled code, are refused."""
    path = HOSTILE / f"{name}.parquet"
    if not path.exists():
        pytest.skip("the hostile samples aren't here")
    with open_trace(path) as trace, pytest.raises(TraceError, match=SAMPLES[name]):
        check(trace)


@pytest.mark.parametrize(
    ("resident", "said"),
    [
        ([(4, 1, 1)], "tier out of range: got 4; accepted: 0 to 3"),
        ([(255, key, 1 << 40) for key in range(2000)], "resident 0, tier: tier out of range"),
        ([(2, 1, 1), (2, 2, 1 << 63)], "resident 1, size: size out of range"),
        ([(2, 1, 4096)] * 500, "listed twice among the residents: got key 1 on tier nvme"),
    ],
)
def test_residents_are_checked_before_compiled_code_sees_them(
    tmp_path: Path, resident: list[tuple[int, int, int]], said: str
) -> None:
    """A tier or size that can't be, or an object listed twice, is refused by the reader."""
    listed = pack_resident(np.array(resident, RESIDENT_DTYPE))
    path = parquet(tmp_path / "t.parquet", metadata={RESIDENT_KEY: listed})
    with open_trace(path) as trace, pytest.raises(TraceError, match=said):
        trace.resident()
