"""Conformance checks for targets, and targets that misbehave.

In a target's own tests::

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_my_target(check, tmp_path):
        check(Kit(lambda folder: make(TargetSpec("mine", (Tier.NVME,), folder / "t"))), tmp_path)

A check raises AssertionError with what was wrong. `check_target` runs all of them.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.placement.extents import Need, align_up
from kvtrace.units import KIB, MIB
from replay import engine as engines
from replay.engine.native import allocate
from replay.ops.columns import SECTOR_BYTES, VERIFY_FAILED, Ops
from replay.ops.contract import Action, LaneKind, LoopOptions, Mode, Verify, power_of_two, run_whole
from replay.payload.producer import Stream
from replay.targets import RunMark
from replay.targets.support.simulated import SimulatedTarget, faulty_target, stall_target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from kvtrace.placement.extents import Space
    from replay.ops.columns import Times
    from replay.targets import Target

__all__ = [
    "CHECKS",
    "Kit",
    "Row",
    "Session",
    "SimulatedTarget",
    "check_target",
    "faulty_target",
    "opened",
    "stall_target",
]
RUN_ID = 7
IO_BYTES = MIB
NEED_BYTES = 24 * MIB
_ARENA_BYTES = 32 * MIB
_NEED = Need(64, NEED_BYTES, NEED_BYTES, 6 * MIB)
_MARK = RunMark(RUN_ID, "0" * 64)


@dataclass(frozen=True, slots=True)
class Kit:
    """A target under test. `make(folder)` gives one that keeps what it keeps in `folder`.

    `keeps_bytes`: what was written can be read. `persistent`: by another target of the same folder
    too. `engine`: which one executes its lane.
    """

    make: Callable[[Path], Target]
    keeps_bytes: bool = True
    persistent: bool = True
    engine: str = "auto"


@dataclass(frozen=True, slots=True)
class Row:
    """An op on an object at `extent`, counted from where extents begin.

    `payload`: where in the arena its bytes start, and those that a read must find. `begin`: of the
    op's bytes in the object. `after`: rows that it waits for; None: the one before.
    """

    action: Action
    key: int
    extent: int
    size: int
    payload: int = 0
    generation: int = 0
    begin: int = 0
    after: tuple[int, ...] | None = None


@dataclass(slots=True)
class Session:
    """An open target and the space it gave."""

    kit: Kit
    target: Target
    space: Space
    depth: int = 8

    def run(self, rows: Sequence[Row]) -> Times:
        """Return the times of these ops; reads were verified in full."""
        lane = self.target.lane(self.depth, IO_BYTES)
        # What the target doesn't do for a delete is bookkeeping, and isn't asked of it.
        deletes = lane.trim_bytes > 0 or lane.kind in (LaneKind.DIR, LaneKind.EXTERNAL)
        ops = _ops(rows, self.space, deletes=deletes)
        options = LoopOptions(Mode.MAX, _arena(), RUN_ID, Verify.FULL)
        _, times = run_whole(engines.choose(self.kit.engine), (lane,), ops, len(rows), options)
        return times

    def must(self, rows: Sequence[Row]) -> None:
        """Run ops that must all succeed."""
        times = self.run(rows)
        wrong = np.flatnonzero(times.error)
        assert not len(wrong), (
            f"{rows[wrong[0]]} ended with error {times.error[wrong[0]]}, "
            f"first bad sector {times.bad_sector[wrong[0]]}"
        )
        assert (times.complete_ns >= times.submit_ns).all(), "completed before it was submitted"

    def must_fail(self, rows: Sequence[Row], why: str) -> None:
        """Run ops of which the last must not succeed, and the others must."""
        error = self.run(rows).error
        assert not error[:-1].any(), f"error {error[:-1]} before the last op"
        assert error[-1] != 0, why


def _ops(rows: Sequence[Row], space: Space, *, deletes: bool) -> Ops:
    waits = [(i - 1,) * (i > 0) if row.after is None else row.after for i, row in enumerate(rows)]
    edges = [before for wait in waits for before in wait]
    ops = Ops.empty(power_of_two(len(rows)), power_of_two(len(edges)))
    ops.edges[: len(edges)] = edges
    ops.wait_count[: len(rows)] = [len(wait) for wait in waits]
    ops.edge_begin[1 : len(rows)] = np.cumsum(ops.wait_count[: len(rows) - 1])
    for i, row in enumerate(rows):
        action = Action.NONE if row.action == Action.DELETE and not deletes else row.action
        ops.action[i] = action
        ops.key[i], ops.generation[i] = row.key, row.generation
        extent = 0 if space.per_object else space.begin_bytes + row.extent
        ops.offset_bytes[i] = extent + row.begin
        ops.length_sectors[i], ops.sector[i] = row.size // SECTOR_BYTES, row.begin // SECTOR_BYTES
        ops.arena_bytes[i] = row.payload + row.begin
    return ops


@cache
def _arena() -> NDArray[np.uint8]:
    arena, _ = allocate(_ARENA_BYTES)
    Stream(RUN_ID).fill(arena.data)
    return arena


@contextmanager
def opened(kit: Kit, folder: Path, *, writes: bool = True) -> Iterator[Session]:
    """Give a session on a target that went through all calls in order; close it in any case."""
    target = kit.make(folder)
    target.space()
    target.authorise(writes=writes)
    space = target.reserve(_NEED)
    try:
        target.open(space, _MARK, writes=writes)
        yield Session(kit, target, space)
    finally:
        target.close()


def _write_then_read(row: Row) -> list[Row]:
    return [row, replace(row, action=Action.READ)]


def reads_back_what_was_written(kit: Kit, folder: Path) -> None:
    """Check that objects of one block to several I/Os come back whole, in this run and the next."""
    with opened(kit, folder) as session:
        align = session.space.align_bytes
        extent, rows = 0, []
        for key, size in enumerate((align, 64 * KIB, MIB, MIB + align, 5 * MIB + align)):
            length = align_up(size, align)
            rows.append(Row(Action.WRITE, key, extent, length, align_up(extent, IO_BYTES)))
            extent += align_up(length, IO_BYTES)
        session.must([op for row in rows for op in _write_then_read(row)])
        session.target.flush()
        session.must([replace(row, action=Action.READ) for row in rows])


def overwrites(kit: Kit, folder: Path) -> None:
    """Check that after a second write the second is read, and the first is gone."""
    with opened(kit, folder) as session:
        old = Row(Action.WRITE, 5, 0, MIB)
        new = replace(old, payload=4 * MIB, generation=1)
        session.must([old, *_write_then_read(new)])
        if kit.keeps_bytes:
            stale = replace(old, action=Action.READ)
            session.must_fail([stale], "an overwritten object is still read as it was")


def reuses_extents(kit: Kit, folder: Path) -> None:
    """Check that a deleted object's place takes another one, of another size."""
    with opened(kit, folder) as session:
        first = Row(Action.WRITE, 1, 0, 2 * MIB)
        second = Row(Action.WRITE, 2, 0, MIB, 8 * MIB)
        deleted = replace(first, action=Action.DELETE)
        session.must([*_write_then_read(first), deleted, *_write_then_read(second)])
        if kit.keeps_bytes:
            gone = replace(first, action=Action.READ)
            session.must_fail([gone], "a deleted object whose place was reused is still read")


def keeps_objects_apart(kit: Kit, folder: Path) -> None:
    """Check that of many objects in flight at once, side by side, each keeps its own bytes."""
    with opened(kit, folder) as session:
        session.depth = 32
        step = align_up(64 * KIB, session.space.align_bytes)
        rows = [Row(Action.WRITE, key, key * step, step, key * step, after=()) for key in range(96)]
        session.must(rows)
        session.must([replace(row, action=Action.READ) for row in reversed(rows)])


def keeps_order_under_load(kit: Kit, folder: Path) -> None:
    """Check that each read finds the latest write before it, among many on a few extents."""
    rng = np.random.default_rng(RUN_ID)
    with opened(kit, folder) as session:
        session.depth = 32
        align = session.space.align_bytes
        sizes = [align_up(size, align) for size in (align, 16 * KIB, 256 * KIB, 2 * MIB)]
        session.must(_random_rows(rng, [sizes[place % len(sizes)] for place in range(12)]))


def _random_rows(rng: np.random.Generator, sizes: Sequence[int], count: int = 400) -> list[Row]:
    """Return ops on one extent per size: reads overlap, writes and deletes are exclusive."""
    rows: list[Row] = []
    latest: list[Row | None] = [None] * len(sizes)
    last: list[tuple[int, ...]] = [()] * len(sizes)
    reads: list[tuple[int, ...]] = [()] * len(sizes)
    for index in range(count):
        place, choice = int(rng.integers(len(sizes))), rng.random()
        row = latest[place]
        if row is not None and choice < 0.6:
            rows.append(replace(row, action=Action.READ, after=last[place]))
            reads[place] += (index,)
            continue
        if row is not None and choice < 0.7:
            rows.append(replace(row, action=Action.DELETE, after=last[place] + reads[place]))
            latest[place] = None
        else:
            # Bytes that lie in the arena side by side, so that no two writes in flight share them.
            made = Row(Action.WRITE, index, place * 2 * MIB, sizes[place], place * 2 * MIB)
            if row is not None:
                made = replace(made, key=row.key, generation=row.generation + 1)
            latest[place] = made
            rows.append(replace(made, after=last[place] + reads[place]))
        last[place], reads[place] = (index,), ()
    return rows


def takes_parts_of_objects(kit: Kit, folder: Path) -> None:
    """Check that an object written part by part is read whole and in other parts."""
    with opened(kit, folder) as session:
        align = session.space.align_bytes
        whole = Row(Action.WRITE, 9, 0, align_up(3 * MIB, align))
        third = whole.size // 3 // align * align
        cuts = (0, third, 2 * third, whole.size)
        parts = [replace(whole, begin=begin, size=end - begin) for begin, end in pairwise(cuts)]
        middle = replace(whole, action=Action.READ, begin=third // 2 // align * align, size=third)
        session.must([*parts, middle, replace(whole, action=Action.READ)])


def knows_what_was_never_written(kit: Kit, folder: Path) -> None:
    """Check that a read of unwritten bytes is detectable: by its bytes, or by an errno."""
    with opened(kit, folder) as session:
        written = Row(Action.WRITE, 1, 0, MIB)
        never = Row(Action.READ, 2, 2 * MIB, MIB, 2 * MIB)
        if kit.keeps_bytes:
            session.must_fail([written, never], "an object that was never written was read")
            error = session.run([never]).error[0]
            assert error == VERIFY_FAILED or error > 0, f"error {error} instead of wrong bytes"


def persists(kit: Kit, folder: Path) -> None:
    """Check that what was flushed is there for the next target, which may write again."""
    row = Row(Action.WRITE, 3, MIB, 2 * MIB, MIB)
    with opened(kit, folder) as session:
        session.must([row])
        session.target.flush()
    with opened(kit, folder) as session:
        if kit.persistent:
            session.must([replace(row, action=Action.READ)])
        session.must(_write_then_read(replace(row, generation=1)))


def touches_nothing_before_it_is_opened(kit: Kit, folder: Path) -> None:
    """Check that looking, asking for permission and reserving write and make nothing."""
    before = _digest(folder)
    target = kit.make(folder)
    target.space()
    target.authorise(writes=True)
    target.reserve(_NEED)
    target.close()
    assert _digest(folder) == before, "something was written before it was opened"


def only_reads_if_nothing_is_written(kit: Kit, folder: Path) -> None:
    """Check that not a byte changes of what is opened for reading."""
    row = Row(Action.WRITE, 3, 0, MIB)
    with opened(kit, folder) as session:
        session.must([row])
        session.target.flush()
    before = _digest(folder)
    with opened(kit, folder, writes=False) as session:
        if kit.persistent:
            session.must([replace(row, action=Action.READ)])
    assert _digest(folder) == before, "opened for reading, it changed what was there"


def says_what_it_is(kit: Kit, folder: Path) -> None:
    """Check that title, alignment, space and lane are as planner and report need them."""
    with opened(kit, folder) as session:
        target, space = session.target, session.space
        assert target.title
        assert "\n" not in target.title
        assert target.device is None or target.device.is_dir()
        align = space.align_bytes
        assert align >= 512, f"extents aligned to {align}"
        assert align & (align - 1) == 0, f"alignment {align} is no power of two"
        assert space.begin_bytes % align == 0
        size = space.size_bytes
        assert space.unbounded or size is not None, "no size although it was reserved"
        assert size is None or size >= NEED_BYTES, f"{size} bytes, {NEED_BYTES} were asked for"
        lane = target.lane(3, 2 * MIB)
        assert lane.queue_depth == 3
        # Objects in files of their own go in one I/O.
        assert lane.io_bytes == 2 * MIB or (space.per_object and lane.io_bytes > 2 * MIB)


def closes_twice(kit: Kit, folder: Path) -> None:
    """Check that closing again, or without having been opened, is no error."""
    with opened(kit, folder) as session:
        session.must([Row(Action.WRITE, 1, 0, MIB)])
    session.target.close()
    kit.make(folder).close()


CHECKS: tuple[Callable[[Kit, Path], None], ...] = (
    says_what_it_is,
    reads_back_what_was_written,
    overwrites,
    reuses_extents,
    keeps_objects_apart,
    keeps_order_under_load,
    takes_parts_of_objects,
    knows_what_was_never_written,
    persists,
    touches_nothing_before_it_is_opened,
    only_reads_if_nothing_is_written,
    closes_twice,
)


def check_target(kit: Kit, folder: Path) -> None:
    """Return if the target does all that a target must. Each check has a new folder of its own."""
    for check in CHECKS:
        place = folder / check.__name__
        place.mkdir()
        check(kit, place)


def _digest(folder: Path) -> dict[str, str]:
    """Return the contents of a directory."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else ""
        for path in sorted(folder.rglob("*"))
    }
