"""Keeps a loop supplied: plans ahead of it in a thread, takes finished ops out behind it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

from kvtrace.errors import KvtraceError
from kvtrace.units import MS_NS
from replay import clock
from replay.engine.native import publish

if TYPE_CHECKING:
    from collections.abc import Callable

    from replay.ops.columns import Times
    from replay.ops.contract import Control
    from replay.ops.done import Done, Taker
    from replay.plan.planner import Planner

_REST_NS = 10 * MS_NS
BATCH_OPS = 1 << 16


class Sink(Protocol):
    """Takes finished ops in the trace's order."""

    def add(self, done: Done) -> None:
        """Take some."""
        ...


class Feed:
    """The plan of one measured run. The planner's thread ends by itself or by `stop`."""

    def __init__(self, planner: Planner, times: Times, control: Control) -> None:
        self.planner, self.control, self._times = planner, control, times
        self._thread = threading.Thread(target=self._work, name="kvtrace-planner")
        self._stopping = threading.Event()
        self.failure: KvtraceError | None = None
        """Why the plan could not go on; the loop then was stopped."""
        self.cpu_ns = 0
        """CPU time of planning, before the clock started and after."""

    def fill(self, progress: Callable[[int], None]) -> None:
        """Plan as far ahead as the ring allows, before the clock starts."""
        begin_ns = clock.thread_cpu_ns()
        while self._advance():
            progress(self.planner.rows)
        self.cpu_ns = clock.thread_cpu_ns() - begin_ns

    def _advance(self) -> bool:
        """Plan a slice and hand it over; return whether there was room and something to plan."""
        before = self.planner.planned
        moved = self.planner.advance(int(self.control.drained[0]))
        planned = self.planner.planned
        if planned > before:
            self._times.reset(before, planned)
            publish(self.control.planned, planned)
        if self.planner.final:
            publish(self.control.final, 1)
        return moved

    def start(self) -> None:
        """Go on planning while the loop runs."""
        self._thread.start()

    def stop(self) -> None:
        """End planning; the plan then is as long as it is."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _work(self) -> None:
        begin_ns = clock.thread_cpu_ns()
        try:
            while not self.planner.final and not self._stopping.is_set():
                if not self._advance():
                    clock.sleep_ns(_REST_NS)
        except KvtraceError as error:
            self.failure = error
            self.control.stop[0] = 1
        finally:
            publish(self.control.final, 1)
            self.cpu_ns += clock.thread_cpu_ns() - begin_ns


class Drain:
    """Takes finished ops out of the ring and hands them to sinks.

    `consumed` is told up to where the payload's stream isn't needed any more.
    """

    def __init__(
        self,
        taker: Taker,
        times: Times,
        control: Control,
        sinks: tuple[Sink, ...],
        consumed: Callable[[int], None] | None = None,
    ) -> None:
        self._taker, self._times, self._control, self._sinks = taker, times, control, sinks
        self._consumed = consumed
        self.cpu_ns = 0

    def take(self) -> int:
        """Take what is finished, BATCH_OPS at most; return how many that were."""
        begin = int(self._control.drained[0])
        planned = int(self._control.planned[0])
        end = self._times.finished(begin, min(planned, begin + BATCH_OPS))
        self._hand_over(begin, end)
        return end - begin

    def finish(self) -> None:
        """Take everything: the loop has ended, and what isn't finished never will be."""
        while (begin := int(self._control.drained[0])) < int(self._control.planned[0]):
            self._hand_over(begin, min(int(self._control.planned[0]), begin + BATCH_OPS))

    def _hand_over(self, begin: int, end: int) -> None:
        if end == begin:
            return
        cpu_ns = clock.thread_cpu_ns()
        done = self._taker.take(begin, end, int(self._control.start_ns[0]))
        if self._consumed is not None and (last := self._taker.payload_end(begin, end)):
            self._consumed(last)
        publish(self._control.drained, end)
        for sink in self._sinks:
            sink.add(done)
        self.cpu_ns += clock.thread_cpu_ns() - cpu_ns
