"""Plans of extreme offsets and lengths on lanes with ranges, judged by a model of a few lines."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from replay.engine.native import testing
from replay.engine.python import PythonEngine
from replay.ops.columns import SECTOR_BYTES
from replay.ops.contract import Action, Lane, LaneKind, LoopOptions, Mode, Script, Verify, run_whole

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from replay.ops.contract import Engine

KIB = 1 << 10
TARGET_BYTES = 256 * KIB
IO_BYTES = 16 * KIB
EXTREMES = (0, 1 << 31, 1 << 32, 1 << 40, 1 << 48, 1 << 62, (1 << 63) - 1, (1 << 64) - 1)
SIMULATED, NULL = int(LaneKind.SIMULATED), int(LaneKind.NULL)


@dataclass
class Case:
    """Lanes of every kind, each with a range within a target of its own, and ops on them."""

    lanes: tuple[Lane, ...]
    before: list[NDArray[np.uint8]]
    paths: list[Path | None]
    columns: dict[str, Any]

    def contents(self, lane: int) -> NDArray[np.uint8]:
        """Return what a lane's target holds now."""
        path, pool = self.paths[lane], self.lanes[lane].pool
        if path is not None:
            return np.fromfile(path, np.uint8)
        return self.before[lane] if pool is None else np.asarray(pool)


def _sectors(rng: np.random.Generator, most: int) -> int:
    return int(rng.integers(0, most // SECTOR_BYTES + 1)) * SECTOR_BYTES


def _offset(rng: np.random.Generator, lane: Lane) -> int:
    """Return an offset: extreme, at an edge of the range, or anywhere near it."""
    choice = rng.integers(4)
    near = (lane.begin_bytes, lane.end_bytes)[rng.integers(2)]
    if choice == 0:
        at = EXTREMES[rng.integers(len(EXTREMES))] // SECTOR_BYTES * SECTOR_BYTES
    elif choice == 1:
        at = near + int(rng.integers(-2, 3)) * SECTOR_BYTES
    else:
        at = _sectors(rng, TARGET_BYTES)
    return max(0, min(at, (1 << 64) - SECTOR_BYTES))


def _length(rng: np.random.Generator) -> int:
    if rng.integers(4):
        return _sectors(rng, 48 * KIB)
    return int(rng.choice([1, 1 << 31, (1 << 32) - 1])) * SECTOR_BYTES


def make_case(rng: np.random.Generator, folder: Path, engine: Engine, count: int = 60) -> Case:
    """Return a random case that `engine` takes."""
    kinds = [LaneKind.FILE, LaneKind.MEMORY, LaneKind.NULL]
    if engine.name != PythonEngine.name:
        kinds.append(LaneKind.SIMULATED)
    lanes, before, paths = [], [], []
    for at, kind in enumerate(kinds):
        begin = _sectors(rng, TARGET_BYTES // 2)
        end = begin + _sectors(rng, TARGET_BYTES // 2)
        there = rng.integers(0, 256, TARGET_BYTES, dtype=np.uint8)
        path = folder / f"target{at}" if kind == LaneKind.FILE else None
        fd = -1
        if path is not None:
            path.write_bytes(there.tobytes())
            fd = os.open(path, os.O_RDWR)
        pool = there.copy() if kind in (LaneKind.MEMORY, LaneKind.SIMULATED) else None
        script = Script(np.zeros(1, np.int64), np.zeros(1, np.int64)) if kind == SIMULATED else None
        lanes.append(Lane(kind, 4, IO_BYTES, fd=fd, pool=pool, script=script, begin_bytes=begin,
                          end_bytes=end))  # fmt: skip
        before.append(there)
        paths.append(path)
    which = rng.integers(0, len(lanes), count)
    columns = {
        "lane": which,
        "action": rng.choice([Action.READ, Action.WRITE, Action.NONE], count),
        "offset_bytes": np.array([_offset(rng, lanes[at]) for at in which], np.uint64),
        "length_bytes": np.array([_length(rng) for _ in which], np.uint64),
        "arena_bytes": rng.integers(0, 64, count) * IO_BYTES,
    }
    return Case(tuple(lanes), before, paths, columns)


def run_case(case: Case, engine: Engine) -> None:
    """Run a case. Raises AssertionError where it did otherwise than the model says."""
    count = len(case.columns["lane"])
    options = LoopOptions(Mode.MAX, np.ones(8 * IO_BYTES, np.uint8), 1, Verify.NONE)
    _, times = run_whole(
        engine, case.lanes, testing.make_ops(count, **case.columns), count, options
    )
    touched = [np.zeros(TARGET_BYTES, bool) for _ in case.lanes]
    for op in range(count):
        lane = case.lanes[case.columns["lane"][op]]
        begin = int(case.columns["offset_bytes"][op])
        end = begin + int(case.columns["length_bytes"][op])
        moves = case.columns["action"][op] != Action.NONE and end > begin
        inside = lane.begin_bytes <= begin and end <= lane.end_bytes
        expected = errno.ERANGE if moves and not inside and lane.kind != NULL else 0
        assert times.error[op] == expected, (op, lane, begin, end, int(times.error[op]))
        if moves and inside and case.columns["action"][op] == Action.WRITE:
            touched[case.columns["lane"][op]][begin:end] = True
    for at, lane in enumerate(case.lanes):
        after = case.contents(at)
        assert len(after) == TARGET_BYTES
        changed = after != case.before[at]
        assert not (changed & ~touched[at]).any(), f"lane {at}, {lane.kind.name}: written outside"


def close(case: Case) -> None:
    """Close the files."""
    for lane in case.lanes:
        if lane.fd >= 0:
            os.close(lane.fd)
