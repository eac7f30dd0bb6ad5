"""Brings a device to a known state: full of unique data, overwritten at random until steady."""

from __future__ import annotations

import secrets
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np

from kvtrace.errors import TargetError, UsageError
from kvtrace.placement.extents import Need
from kvtrace.units import GIB, KIB, MIB, S_NS, format_bytes
from replay import clock, targets
from replay import engine as engines
from replay.engine import native
from replay.engine.drive import LOOK_S, drive
from replay.ops.columns import SECTOR_BYTES, Ops, Times
from replay.ops.contract import Control, LoopOptions, Mode, Verify
from replay.payload import stamps as payload
from replay.plan.writes import writes
from replay.safety.marker import Preconditioned
from replay.state import steady
from replay.state.populate import check_written
from replay.state.shuffle import Shuffle
from replay.targets import RunMark, Target
from replay.watch import Silent, Stop, Watcher

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from kvtrace.placement.extents import Space
    from replay.ops.contract import Engine
    from replay.state.steady import Steadiness
    from replay.targets import TargetSpec

WINDOWS_PER_PASS = 10
"""The rate of a pass is taken ten times; steady is said of the last half of a pass."""
SLICE_BYTES = 8 * GIB
"""Written in one engine call: setting one up takes 10 ms, in which the device has a rest."""
_SLICE_OPS = 1 << 16
_TIB = 1 << 40
_SHUFFLE_STREAM = 2
"""Spawn key of the random numbers that shuffle a pass."""
NO_TRACE = "precondition"
"""The marker's value in place of a trace's sha256."""


class _Conditionable(Target, Protocol):
    """A target whose marker tells its state."""

    def note_preconditioned(self, state: Preconditioned | None) -> None: ...


@dataclass(frozen=True, slots=True)
class PreconditionOptions:
    """How a device is filled. `passes`: the maximum, the first of them sequential."""

    passes: int = 2
    io_size_bytes: int = 128 * KIB
    queue_depth: int = 32
    engine: str = "auto"
    run_id: int | None = None
    arena_bytes: int | None = None

    def check(self) -> None:
        """Return if all values can be used. Raises UsageError."""
        ranges = {
            "--passes": (self.passes, 1, 1000),
            "--queue-depth": (self.queue_depth, 1, 1 << 16),
            "--io-size": (self.io_size_bytes, 4 * KIB, 64 * MIB),
            "--run-id": (self.run_id or 0, 0, payload.RUN_MASK),
        }
        for where, (value, least, most) in ranges.items():
            if not least <= value <= most:
                raise UsageError(
                    "out of range", where=where, got=value, accepted=f"{least} to {most}"
                )


@dataclass(frozen=True, slots=True)
class Window:
    """A tenth of a pass: what was written, and how long it took."""

    pass_index: int
    bytes: int
    duration_ns: int

    @property
    def bytes_per_s(self) -> float:
        """Its rate."""
        return self.bytes * S_NS / max(1, self.duration_ns)


@dataclass(slots=True)
class Preconditioning:
    """What was done: whole passes, bytes, rates. Kept up to date while it goes on."""

    title: str
    run_id: int
    engine: str
    options: PreconditionOptions
    begin_bytes: int
    end_bytes: int
    passes: int = 0
    written_bytes: int = 0
    elapsed_ns: int = 0
    windows: list[Window] = field(default_factory=list)
    interrupted: bool = False

    @property
    def span_bytes(self) -> int:
        """What a pass writes."""
        return self.end_bytes - self.begin_bytes

    def rate(self, pass_index: int) -> float | None:
        """Return a pass's bytes/s; None if it wasn't begun."""
        mine = [window for window in self.windows if window.pass_index == pass_index]
        if not mine:
            return None
        total_ns = sum(window.duration_ns for window in mine)
        return sum(window.bytes for window in mine) * S_NS / max(1, total_ns)

    @property
    def steadiness(self) -> Steadiness | None:
        """How steady the last windows at random are; None if there were too few."""
        return steady.assess([w.bytes_per_s for w in self.windows if w.pass_index > 0])

    @property
    def steady(self) -> bool | None:
        """Whether the rate had become steady; None if it can't be said."""
        steadiness = self.steadiness
        return None if steadiness is None else steadiness.steady


def precondition(
    spec: TargetSpec,
    options: PreconditionOptions | None = None,
    *,
    watcher: Watcher | None = None,
    stop: Stop | None = None,
) -> Preconditioning:
    """Fill the target of `spec` after a replay's checks, and return the measured passes.

    Passes go on to `options.passes`, or until a whole pass at random has ended in a steady rate.
    Prints nothing, ends nothing. Raises UsageError or TargetError; before a byte was written where
    that can be known.
    """
    options = options or PreconditionOptions()
    options.check()
    engine = engines.choose(options.engine)
    target = cast("_Conditionable", targets.make(spec))
    with closing(target):
        space = _reserved(target, spec, options)
        run_id = secrets.randbits(16) if options.run_id is None else options.run_id
        assert space.size_bytes is not None
        begin, end = space.begin_bytes, space.begin_bytes + space.size_bytes
        done = Preconditioning(target.title, run_id, engine.name, options, begin, end)
        work = _Work(target, engine, done, watcher or Silent(), stop or Stop())
        arena = work.make_arena()
        target.open(space, RunMark(run_id, NO_TRACE), writes=True)
        work.run(arena)
    return done


def _reserved(target: Target, spec: TargetSpec, options: PreconditionOptions) -> Space:
    """Return the space that is written; everything was checked and nothing opened."""
    if not hasattr(target, "note_preconditioned"):
        raise UsageError(
            "has no state to bring it to", where=target.title, accepted="a block device or a file"
        )
    target.authorise(writes=True)
    offered = target.space()
    if offered.size_bytes is None:
        raise UsageError(
            "a new file needs a size", where=spec.path, hint="say --size, for example --size 100GiB"
        )
    if offered.size_bytes == 0:
        raise TargetError(
            "no room to write",
            where=target.title,
            accepted=f"more than {format_bytes(offered.begin_bytes + offered.align_bytes)}",
        )
    if options.io_size_bytes % offered.align_bytes:
        raise UsageError(
            "isn't a multiple of the target's alignment",
            where="--io-size",
            got=format_bytes(options.io_size_bytes),
            accepted=f"multiples of {format_bytes(offered.align_bytes)}",
        )
    return target.reserve(Need(0, 0, 0))


@dataclass(slots=True)
class _Work:
    """One preconditioning under way."""

    target: _Conditionable
    engine: Engine
    done: Preconditioning
    watcher: Watcher
    stop: Stop
    cursor_bytes: int = 0
    """Virtual place in the arena of the next write."""

    @property
    def io_bytes(self) -> int:
        return self.done.options.io_size_bytes

    def make_arena(self) -> NDArray[np.uint8]:
        """Return the payload."""
        size = payload.arena_size(self.done.options.arena_bytes, self.io_bytes)
        arena, page_kind = native.allocate(size)
        self.watcher.say(f"payload: {format_bytes(size)} of unique bytes on {page_kind} pages")
        payload.fill(arena, self.done.run_id)
        return arena

    def run(self, arena: NDArray[np.uint8]) -> None:
        """Write pass after pass; what was done is in `done`, and noted on the target."""
        start_ns = clock.now_ns()
        self.target.note_preconditioned(None)
        for index in range(self.done.options.passes):
            self.target.recheck()
            self._pass(index, arena)
            self.done.elapsed_ns = clock.now_ns() - start_ns
            if self.stop.requested:
                self.done.interrupted = self.done.passes < self.done.options.passes
                break
            if self.done.steady:
                break
        if self.done.passes and not self.done.interrupted:
            done = self.done
            self.target.note_preconditioned(
                Preconditioned(clock.unix_s(), done.end_bytes, done.passes, done.steady)
            )
            self.target.flush()

    def _pass(self, index: int, arena: NDArray[np.uint8]) -> None:
        order = "random" if index else "sequential"
        name = f"pass {index + 1} of {self.done.options.passes}, {order}"
        self.watcher.stage(name, self.done.span_bytes)
        options = LoopOptions(Mode.MAX, arena, self.done.run_id, Verify.NONE)
        so_far = 0
        for orders in _windows(index, self.done):
            window_bytes = window_ns = 0
            for numbers in orders:
                moved, took_ns, whole = self._slice(index, numbers, options, so_far)
                window_bytes, window_ns = window_bytes + moved, window_ns + took_ns
                so_far += moved
                self.done.written_bytes += moved
                if not whole:
                    return
            self.done.windows.append(Window(index, window_bytes, window_ns))
        self.target.flush()
        self.done.passes = index + 1
        if index == 0:
            self.target.written(self.done.end_bytes)

    def _slice(
        self, index: int, numbers: NDArray[np.uint64], options: LoopOptions, so_far: int
    ) -> tuple[int, int, bool]:
        """Write these extents; return bytes, ns, and whether all were written."""
        ops = self._ops(index, numbers, len(options.arena))
        count = len(numbers)
        times = Times.empty(ops.capacity)
        times.reset(0, count)
        control = Control.whole(1, count)
        control.stop = self.stop.flag
        lane = self.target.lane(self.done.options.queue_depth, self.io_bytes)

        def look() -> float:
            self.watcher.advance(so_far + int(control.completed_bytes.sum()))
            return LOOK_S

        drive(self.engine, (lane,), ops, times, options, control, look)
        written_before = format_bytes(self.done.written_bytes)
        check_written(
            ops,
            times,
            self.target.title,
            hint=f"{written_before} were written before; look at the device",
        )
        written = times.error[:count] == 0
        sectors = int(ops.length_sectors[:count][written].sum(dtype=np.uint64))
        moved = sectors * SECTOR_BYTES
        self.watcher.advance(so_far + moved)
        if not written.all() and not self.stop.requested:
            raise TargetError(
                "wrote less than it was asked to",
                where=self.target.title,
                got=f"{format_bytes(moved)} of a slice",
                hint="try another --engine",
            )
        if not moved:
            return 0, 0, False
        submit, complete = times.submit_ns[:count][written], times.complete_ns[:count][written]
        return moved, int(complete.max() - submit.min()), bool(written.all())

    def _ops(self, index: int, numbers: NDArray[np.uint64], arena_bytes: int) -> Ops:
        """Return the writes of these extents, each with bytes of its own."""
        count = len(numbers)
        size = np.uint64(self.io_bytes)
        offset = np.uint64(self.done.begin_bytes) + numbers * size
        ops = writes(
            # A stamp's sector number goes around after 1 TiB: the key says in which one it is.
            key=~(offset // np.uint64(_TIB)),
            lane=np.zeros(count, np.uint8),
            offset=offset,
            length=np.minimum(np.uint64(self.done.end_bytes) - offset, size),
            arena=self.cursor_bytes + np.arange(count, dtype=np.uint64) * size,
        )
        sector = offset // np.uint64(SECTOR_BYTES)
        ops.sector[:count] = sector & np.uint64(payload.SECTOR_MASK)
        ops.generation[:count] = index
        self.cursor_bytes = (self.cursor_bytes + count * self.io_bytes) % arena_bytes
        return ops


def _windows(index: int, done: Preconditioning) -> Iterator[Iterator[NDArray[np.uint64]]]:
    """Yield the windows of a pass; of each, the numbers of its extents slice by slice."""
    io_bytes = done.options.io_size_bytes
    count = -(-done.span_bytes // io_bytes)
    stream = np.random.SeedSequence(done.run_id, spawn_key=(_SHUFFLE_STREAM, index))
    shuffle = Shuffle(count, np.random.default_rng(stream)) if index else None
    most = min(_SLICE_OPS, max(1, SLICE_BYTES // io_bytes))

    def slices(begin: int, end: int) -> Iterator[NDArray[np.uint64]]:
        for at in range(begin, end, most):
            numbers = np.arange(at, min(end, at + most), dtype=np.uint64)
            yield numbers if shuffle is None else shuffle.at(numbers)

    bounds = [count * part // WINDOWS_PER_PASS for part in range(WINDOWS_PER_PASS + 1)]
    for begin, end in pairwise(bounds):
        if begin < end:
            yield slices(begin, end)
