"""Brings targets to the state that the trace expects, through the same engine, before the clock."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.placement.extents import DEPTH_MAX
from kvtrace.units import GIB, S_NS, format_bytes
from replay import clock
from replay.engine.drive import LOOK_S, drive, thread_lanes
from replay.ops.columns import SECTOR_BYTES, Times
from replay.ops.contract import Control, LoopOptions, Mode, Verify
from replay.options import Checking, Payload
from replay.plan.writes import fill_ops
from replay.result.document import Populated
from replay.state import populate
from replay.watch import RunInterruptedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from replay.ops.columns import Ops
    from replay.ops.contract import Engine
    from replay.options import ReplayOptions
    from replay.plan.prepare import Prepared
    from replay.targets import RunMark
    from replay.watch import Stop, Watcher


@dataclass(slots=True)
class InitialState:
    """Opens the targets of one run, fills new ones, populates, settles."""

    prepared: Prepared
    options: ReplayOptions
    engine: Engine
    watcher: Watcher
    stop: Stop
    arena: NDArray[np.uint8]

    def run(self, mark: RunMark) -> Populated:
        """Return what was written: nothing if the run is stopped before all of it is.

        What follows then executes nothing, and its result says so. Raises TargetError.
        """
        if self.options.reuse_populated and self.prepared.populate_count:
            populate.check_noted(self.prepared)  # before anything is written
        self._open(mark)
        try:
            populated = self._populate(self._fill_new())
            self.stop.check()
        except RunInterruptedError:
            return self._populated()
        for target in self.prepared.targets:
            target.recheck()
        self._note_changes()
        return populated

    def verify(self) -> Verify:
        """Return how reads are checked: not at all if some go where no run has written.

        A sample of whole bodies needs an arena that still holds them; else it is stamps.
        """
        if not self.options.stamped:
            return Verify.NONE
        if self.options.populate == "none" and self.prepared.survey.original_reads:
            return Verify.NONE
        kept = self.options.payload == Payload.ARENA
        if self.prepared.survey.longest_bytes > len(self.arena):
            kept = False
        if self.options.verify == Checking.SAMPLE and not kept:
            return Verify.STAMPS
        return Verify[self.options.verify.name]

    def _open(self, mark: RunMark) -> None:
        parts = zip(self.prepared.targets, self.prepared.spaces, self.prepared.writes, strict=True)
        for target, space, writes in parts:
            target.open(space, mark, writes=writes)
            self.watcher.say(f"target: {target.title}")
            for note in target.notes:
                self.watcher.say(note)

    def _fill_new(self) -> int:
        """Write the unwritten parts of targets once; return how many bytes that was."""
        total = 0
        ends = self.prepared.planner.space_ends()
        for lane, target in enumerate(self.prepared.targets):
            part = target.unwritten(ends[lane])
            if part is None:
                continue
            io_bytes, thread = self.options.io_size_bytes, lane * self.options.threads
            ops, ops_count = fill_ops(
                thread, part.begin_bytes, part.end_bytes, io_bytes, len(self.arena)
            )
            count = part.end_bytes - part.begin_bytes
            self.watcher.say(f"writing {format_bytes(count)} of {target.title} for the first time")
            self._write(ops, ops_count, f"filling {target.spec.name}")
            target.written(ends[lane])
            total += count
        return total

    def _populate(self, filled_bytes: int) -> Populated:
        ops, count = self.prepared.populate, self.prepared.populate_count
        sectors = int(ops.length_sectors[:count].sum(dtype=np.uint64))
        total = sectors * SECTOR_BYTES
        if self.options.reuse_populated and count:
            lanes = thread_lanes(self.prepared, self.options, 1)
            populate.check_reusable(self.prepared, lanes)
            self.watcher.say(f"{count:,} objects are there from an earlier run")
            return self._populated(objects=count, bytes=total, fill_bytes=filled_bytes, reused=True)
        if not count and not filled_bytes:
            return self._populated()
        if count:
            self.watcher.say(
                f"populating {count:,} objects, {format_bytes(total)}: about "
                f"{max(1, total // GIB)} s at 1 GiB/s, then up to "
                f"{self.options.settle_ns / S_NS:g} s to settle"
            )
        start_ns = clock.now_ns()
        if count:
            self._write(ops, count, "populating")
        for target in self.prepared.targets:
            target.flush()
        if count:
            self._note_populated(populate.digest(self.prepared))
        written_ns = clock.now_ns() - start_ns
        settled_ns = self._settle()
        return self._populated(
            objects=count,
            bytes=total,
            seconds=written_ns / S_NS,
            fill_bytes=filled_bytes,
            settled_s=settled_ns / S_NS,
        )

    def _populated(self, **known: float) -> Populated:
        """Return what was written before the clock started: nothing, but for what is known."""
        nothing = {"objects": 0, "bytes": 0, "seconds": 0.0, "fill_bytes": 0, "settled_s": 0.0}
        return Populated.model_validate({"which": self.options.populate.value, **nothing, **known})

    def _note_populated(self, digest: str | None) -> None:
        for target, writes in zip(self.prepared.targets, self.prepared.writes, strict=True):
            if writes:
                target.note_populated(digest)

    def _note_changes(self) -> None:
        """Note that what was populated is about to be changed: no later run may take it."""
        parts = zip(self.prepared.tiers, self.prepared.targets, strict=True)
        survey = self.prepared.survey
        if any(survey.changes_objects(tier, deletes=target.deletes) for tier, target in parts):
            self._note_populated(None)

    def _settle(self) -> int:
        on_disk = [t for t in self.prepared.targets if t.spec.path is not None]
        if not on_disk:
            return 0
        sysfs = tuple(target.device for target in on_disk if target.device is not None)
        self.watcher.stage("settling", None)
        return populate.settle(sysfs, self.options.settle_ns, lambda: self.stop.requested)

    def _write(self, ops: Ops, count: int, stage: str) -> None:
        """Write `count` ops that are all in `ops`. Raises TargetError if one fails."""
        options = LoopOptions(
            Mode.MAX, self.arena, self.prepared.run_id, Verify.NONE, stamp=self.options.stamped
        )
        lanes = tuple(  # nothing is read: no buffers
            replace(lane, longest_bytes=SECTOR_BYTES)
            for lane in thread_lanes(self.prepared, self.options, DEPTH_MAX)
        )
        control = Control.whole(len(lanes), count)
        control.stop = self.stop.flag
        times = Times.empty(ops.capacity)
        times.reset(0, count)
        self.watcher.stage(stage, count)

        def look() -> float:
            self.watcher.advance(int(control.completed_ops.sum()))
            return LOOK_S

        drive(self.engine, lanes, ops, times, options, control, look)
        self.stop.check()
        populate.check_written(ops, times, self.prepared.targets[-1].title)
