"""Runs a trace: prepares, populates, measures. The only module that drives an engine."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as Waiting
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.reader import Trace, open_trace
from kvtrace.units import GIB, S_NS, US_NS, format_bytes
from replay import clock, device, engines, payload, populate
from replay.assess import Measured, assess
from replay.diagnose import describe_mismatches
from replay.loop import Control, Lane, LoopOptions, Mode, Ops, Outcome, Verify
from replay.native import allocate
from replay.options import DEPTH_MAX, Checking, ReplayOptions, Spin, Timing
from replay.plan import fill_ops
from replay.prepare import Prepared, prepare
from replay.result import Populated
from replay.targets import RunMark
from replay.watch import Silent, Stop, Watcher

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from replay.device import DiskStat
    from replay.loop import Engine
    from replay.result import Result
    from replay.targets import TargetSpec

SPIN_NS = 50 * US_NS
_POLL_S = 0.1


def run(
    trace: Trace | str | os.PathLike[str],
    targets: Iterable[TargetSpec],
    options: ReplayOptions | None = None,
    *,
    watcher: Watcher | None = None,
    stop: Stop | None = None,
) -> Result:
    """Return what replaying `trace` on `targets` found. Prints nothing, ends nothing.

    `stop` ends it from elsewhere (a signal handler): the result then is partial and INVALID.
    Raises UsageError, TraceError or TargetError before anything was written where that can be
    known, and RunInterruptedError if stopped before the clock started.
    """
    watcher, stop = watcher or Silent(), stop or Stop()
    options = options or ReplayOptions()
    engine = engines.choose(options.engine)
    opened = trace if isinstance(trace, Trace) else open_trace(trace)
    prepared = prepare(opened, tuple(targets), options, watcher, stop)
    session = _Session(opened, prepared, options, engine, watcher, stop)
    try:
        return session.run()
    finally:
        for target in prepared.targets:
            target.close()


@dataclass(slots=True)
class _Session:
    """One run. Its steps in order; each leaves what the next needs."""

    trace: Trace
    prepared: Prepared
    options: ReplayOptions
    engine: Engine
    watcher: Watcher
    stop: Stop

    def run(self) -> Result:
        arena, page_kind = self._make_arena()
        sha256 = self.trace.sha256()
        mark = RunMark(self.prepared.run_id, sha256)
        self._open(mark)
        filled_bytes = self._fill_new(arena)
        populated = self._populate(arena, filled_bytes)
        self.stop.check()
        verify = self._verify()
        before = self._stats()
        outcome = self._drive(
            self._lanes(self.options.depth),
            self.prepared.plan.ops,
            self._loop_options(arena, verify),
            "replaying",
        )
        after = self._stats()
        mismatches = describe_mismatches(
            self.prepared.plan.ops, outcome.times, self._lanes(1), self.prepared.run_id
        )
        measured = Measured(
            outcome=outcome,
            populated=populated,
            verify=verify,
            spin=self._spin_ns() > 0,
            engine=self.engine.name,
            page_kind=page_kind,
            mismatches=mismatches,
            stats=tuple(
                None if first is None or last is None else last.since(first)
                for first, last in zip(before, after, strict=True)
            ),
            interrupted=self.stop.requested,
            trace_sha256=sha256,
        )
        return assess(self.trace, self.prepared, self.options, measured)

    def _make_arena(self) -> tuple[NDArray[np.uint8], str]:
        size = self.prepared.arena_bytes
        arena, page_kind = allocate(size)
        if self._moves_bytes():
            self.watcher.say(f"payload: {format_bytes(size)} of unique bytes on {page_kind} pages")
            payload.fill(arena, self.prepared.run_id)
        self.stop.check()
        return arena, str(page_kind)

    def _moves_bytes(self) -> bool:
        return any(target.spec.name != "null" for target in self.prepared.targets)

    def _open(self, mark: RunMark) -> None:
        parts = zip(self.prepared.targets, self.prepared.spaces, self.prepared.writes, strict=True)
        for target, space, writes in parts:
            target.open(space, mark, writes=writes)
            self.watcher.say(f"target: {target.title}")

    def _lanes(self, queue_depth: int) -> tuple[Lane, ...]:
        return tuple(
            target.lane(queue_depth, self.options.io_size_bytes) for target in self.prepared.targets
        )

    def _fill_new(self, arena: NDArray[np.uint8]) -> int:
        """Write the unwritten parts of targets once; return how many bytes that was."""
        total = 0
        for lane, target in enumerate(self.prepared.targets):
            end = int(self.prepared.plan.extent_bytes[lane])
            part = target.unwritten(end)
            if part is None:
                continue
            io_bytes = self.options.io_size_bytes
            ops = fill_ops(lane, part.begin_bytes, part.end_bytes, io_bytes, len(arena))
            count = part.end_bytes - part.begin_bytes
            self.watcher.say(f"writing {format_bytes(count)} of {target.title} for the first time")
            self._write(ops, arena, f"filling {target.spec.name}")
            target.written(end)
            total += count
        return total

    def _populate(self, arena: NDArray[np.uint8], filled_bytes: int) -> Populated:
        ops = self.prepared.populate
        count, total = len(ops.key), int(ops.length_bytes.sum(dtype=np.uint64))
        which = self.options.populate.value
        if not count and not filled_bytes:
            return Populated(which, 0, 0, 0.0, 0, 0.0)
        if count:
            self.watcher.say(
                f"populating {count:,} objects, {format_bytes(total)}: about "
                f"{max(1, total // GIB)} s at 1 GiB/s, then up to "
                f"{self.options.settle_ns / S_NS:g} s to settle"
            )
        start_ns = clock.now_ns()
        if count:
            self._write(ops, arena, "populating")
        for target in self.prepared.targets:
            target.flush()
        written_ns = clock.now_ns() - start_ns
        settled_ns = self._settle()
        return Populated(which, count, total, written_ns / S_NS, filled_bytes, settled_ns / S_NS)

    def _settle(self) -> int:
        on_disk = [t for t in self.prepared.targets if t.spec.path is not None]
        if not on_disk:
            return 0
        sysfs = tuple(target.device for target in on_disk if target.device is not None)
        self.watcher.stage("settling", None)
        return populate.settle(sysfs, self.options.settle_ns, lambda: self.stop.requested)

    def _write(self, ops: Ops, arena: NDArray[np.uint8], stage: str) -> None:
        options = LoopOptions(Mode.MAX, arena, self.prepared.run_id, Verify.NONE)
        outcome = self._drive(self._lanes(DEPTH_MAX), ops, options, stage)
        self.stop.check()
        populate.check_written(ops, outcome, self.prepared.targets[-1].title)

    def _verify(self) -> Verify:
        """Return what is checked: nothing if reads go where nobody has written."""
        if self.options.populate == "none" and self.prepared.survey.original_reads:
            return Verify.NONE
        return {
            Checking.NONE: Verify.NONE,
            Checking.STAMPS: Verify.STAMPS,
            Checking.FULL: Verify.FULL,
        }[self.options.verify]

    def _spin_ns(self) -> int:
        """Return how long to poll; by itself only where a CPU is spare."""
        if self.options.spin != Spin.AUTO:
            return SPIN_NS if self.options.spin == Spin.ON else 0
        return SPIN_NS if engines.spare_cpus() >= len(self.prepared.targets) else 0

    def _loop_options(self, arena: NDArray[np.uint8], verify: Verify) -> LoopOptions:
        mode = Mode.MAX if self.options.mode == Timing.MAX else Mode.OPEN
        return LoopOptions(mode, arena, self.prepared.run_id, verify, self._spin_ns())

    def _stats(self) -> tuple[DiskStat | None, ...]:
        return tuple(device.stat(target.device) for target in self.prepared.targets)

    def _drive(
        self, lanes: tuple[Lane, ...], ops: Ops, options: LoopOptions, stage: str
    ) -> Outcome:
        """Run one engine call in a thread, so that signals and progress go on meanwhile."""
        control = Control(len(lanes))
        control.stop = self.stop.flag
        self.watcher.stage(stage, len(ops.due_ns))
        with ThreadPoolExecutor(1) as pool:
            future: Future[Outcome] = pool.submit(self.engine.run, lanes, ops, options, control)
            while True:
                try:
                    return future.result(timeout=_POLL_S)
                except Waiting:
                    self.watcher.advance(int(control.completed_ops.sum()))
