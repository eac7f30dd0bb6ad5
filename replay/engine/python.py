"""The engine `python`: threads and preadv/pwritev.

The fallback without a compiler, and the reference that the compiled engines are tested against.

What it costs: an object's pieces go one after the other through one thread, at most
`THREADS` at once, and every op takes the interpreter for 50 to 200 µs; submit times are late by
as much, more when the process is busy.
"""

from __future__ import annotations

import heapq
import queue
import threading
from dataclasses import dataclass, field

import numpy as np

from kvtrace.errors import TargetError
from kvtrace.units import S_NS
from replay import clock
from replay.engine.pieces import Done, Mover
from replay.ops.columns import (
    DEPENDENCY_FAILED,
    FAILED,
    FINISHED,
    GATING,
    NO_TIME_NS,
    SECTOR_BYTES,
    Ops,
    Times,
)
from replay.ops.contract import (
    OUT_OF_RANGE,
    Action,
    Control,
    Lane,
    LaneKind,
    LoopOptions,
    Mode,
    Outcome,
)
from replay.ops.counters import LaneCounters
from replay.ops.divided import places

THREADS = 16
_POLL_NS = S_NS // 20
_PLAN_POLL_NS = S_NS // 1000
_KINDS = (LaneKind.NULL, LaneKind.MEMORY, LaneKind.FILE)


class PythonEngine:
    """Runs ops by threads."""

    name = "python"

    def run(
        self,
        lanes: tuple[Lane, ...],
        ops: Ops,
        times: Times,
        options: LoopOptions,
        control: Control,
    ) -> Outcome:
        """Run all ops to their end (or to `control.stop`); what happened is in `times`.

        Raises TargetError for lanes that only the compiled loop knows.
        """
        for lane in lanes:
            if lane.kind not in _KINDS or lane.trim_bytes or options.virtual_time:
                raise TargetError(
                    f"a target of kind {lane.kind.name.lower()} needs the compiled loop",
                    where=self.name,
                    hint="use --engine auto",
                )
        return _Run(lanes, ops, times, options, control).run()


@dataclass(slots=True)
class _LaneState:
    lane: Lane
    threads: int
    ready: list[tuple[int, int]] = field(default_factory=list)
    """Heap of (due, op) that wait for a slot."""
    busy: int = 0
    slot_ns: int = 0
    """When a slot was last freed while ops waited for one."""
    work: queue.SimpleQueue[int | None] = field(default_factory=queue.SimpleQueue)
    counters: LaneCounters = field(default_factory=LaneCounters)


@dataclass(slots=True)
class _Live:
    """An op that has been visited and is not finished."""

    waits: int = 0
    failed: bool = False
    gone: bool = False
    """A predecessor had left the ring, so that it isn't known when it completed."""
    ready_ns: int = NO_TIME_NS
    waiters: list[int] = field(default_factory=list)


class _Run:
    """One call of the engine. The calling thread decides, workers do I/O."""

    def __init__(
        self,
        lanes: tuple[Lane, ...],
        ops: Ops,
        times: Times,
        options: LoopOptions,
        control: Control,
    ) -> None:
        self.ops, self.times, self.options, self.control = ops, times, options, control
        self.mask = ops.capacity - 1
        self.lanes = [_LaneState(lane, min(THREADS, lane.queue_depth)) for lane in lanes]
        self.cursor = 0
        self.live: dict[int, _Live] = {}
        self.failed: set[int] = set()
        self.early: list[tuple[int, int]] = []
        """Heap of (due, op) of ops that wait for nothing but their time."""
        self.done: queue.SimpleQueue[Done] = queue.SimpleQueue()
        self.stalled = False
        self.start_ns = 0
        self.clock_ns = self.gate_ns = np.zeros(0, np.int64)
        self.cpu_ns = 0
        self.verify_cpu_ns = 0
        self.lock = threading.Lock()

    def run(self) -> Outcome:
        cpu_ns = clock.thread_cpu_ns()
        workers = [
            threading.Thread(target=self._work, args=(state,), daemon=True)
            for state in self.lanes
            if state.lane.kind != LaneKind.NULL
            for _ in range(state.threads)
        ]
        for worker in workers:
            worker.start()
        self.start_ns = clock.now_ns()
        self.control.start_ns[0] = self.start_ns
        self.clock_ns = np.full(self.options.clocks, self.start_ns)
        self.gate_ns = self.clock_ns.copy()
        try:
            while not self.control.stop[0] and self._visit():
                self._step()
            while any(state.busy for state in self.lanes):
                self._take(self.done.get())
        finally:
            for state in self.lanes:
                for _ in range(state.threads):
                    state.work.put(None)
            for worker in workers:
                worker.join()
        return Outcome(
            self.start_ns,
            tuple(state.counters for state in self.lanes),
            self.cpu_ns + clock.thread_cpu_ns() - cpu_ns,
            self.verify_cpu_ns,
        )

    def _visit(self) -> bool:
        """Take in what has been planned; return whether anything is left or may still come."""
        final = bool(self.control.final[0])  # first: what was planned before it is then seen
        planned = int(self.control.planned[0])
        self.stalled &= planned == self.cursor
        for op in range(self.cursor, planned):
            self._enter(op)
        self.cursor = planned
        self._note_stall(final)
        return bool(self.live) or not final

    def _note_stall(self, final: bool) -> None:
        """Count once per wait for a planner that is behind: nothing to do, ring not half full."""
        filled = self.cursor - int(self.control.drained[0])
        if final or self.live or self.stalled or 2 * filled >= self.ops.capacity:
            return
        self.stalled = True
        for state in self.lanes:
            state.counters.planner_stalls += 1

    def _enter(self, op: int) -> None:
        at = op & self.mask
        if self.ops.lane[at] >= len(self.lanes):
            raise TargetError(f"op {op}: no such lane", where=PythonEngine.name)
        live = self.live[op] = _Live()
        begin, count = int(self.ops.edge_begin[at]), int(self.ops.wait_count[at])
        for k in range(begin, begin + count):
            before = int(self.ops.edges[k & (len(self.ops.edges) - 1)])
            if before >= op:
                raise TargetError(
                    f"op {op}: a predecessor isn't an earlier op", where=PythonEngine.name
                )
            if before in self.live:
                self.live[before].waiters.append(op)
                live.waits += 1
            else:
                self._inherit_finished(op, before)
        if live.waits == 0:
            self._become_ready(op)

    def _inherit_finished(self, op: int, before: int) -> None:
        """`before` finished earlier; its times count if they are still in the ring."""
        at = before & self.mask
        when_ns = max(int(self.times.complete_ns[at]), int(self.times.ready_ns[at]))
        gate = self.ops.action[at] == Action.GATE
        if int(self.times.state[at]) >> 32 != before:
            when_ns, gate = NO_TIME_NS, False
        self._inherit(op, before in self.failed, when_ns, gate)

    def _inherit(self, op: int, failed: bool, when_ns: int, gate: bool) -> None:
        """`op` takes over what it must know of a predecessor that has finished."""
        at, live = op & self.mask, self.live[op]
        live.failed |= failed and self.ops.action[at] != Action.GATE
        live.gone |= when_ns == NO_TIME_NS
        live.ready_ns = max(live.ready_ns, when_ns)
        if gate and self.ops.due_ns[at] == NO_TIME_NS:
            self.ops.due_ns[at] = when_ns - self.start_ns

    def _due_ns(self, op: int) -> int:
        """Return when `op` is due, all of its predecessors having finished."""
        at = op & self.mask
        if self.options.mode == Mode.MAX:
            return 0
        if self.ops.action[at] == Action.GATE:
            opening_ns = int(self.clock_ns[self._clock(op)]) + int(self.ops.due_ns[at])
            return max(opening_ns, int(self.times.ready_ns[at]))
        if self.options.mode == Mode.CLOSED and self.ops.due_ns[at] == NO_TIME_NS:
            self.ops.due_ns[at] = self.gate_ns[self._clock(op)] - self.start_ns
        return self.start_ns + int(self.ops.due_ns[at])

    def _clock(self, op: int) -> int:
        return int(self.ops.clock[op & self.mask]) & ~GATING

    def _become_ready(self, op: int) -> None:
        """All predecessors of `op` have finished."""
        self.times.ready_ns[op & self.mask] = max(self.live[op].ready_ns, self.start_ns)
        heapq.heappush(self.early, (self._due_ns(op), op))

    def _step(self) -> None:
        """Start what is due and has a slot, then wait for a completion or the next due time."""
        now_ns = clock.now_ns()
        while self.early and self.early[0][0] <= now_ns:
            due_ns, op = heapq.heappop(self.early)
            self._offer(op, due_ns)
        for state in self.lanes:
            self._submit(state)
        wait_ns = _POLL_NS if self.control.final[0] else _PLAN_POLL_NS
        if self.early:
            wait_ns = min(wait_ns, max(0, self.early[0][0] - clock.now_ns()))
        elif not self.live and self.control.planned[0] > self.cursor:
            return
        idle = not any(state.busy for state in self.lanes)
        if idle and (wait_ns == 0 or (self.control.final[0] and not self.live)):
            return
        try:
            self._take(self.done.get(timeout=wait_ns / S_NS))
            while True:
                self._take(self.done.get_nowait())
        except queue.Empty:
            return

    def _offer(self, op: int, due_ns: int) -> None:
        """`op` is ready and due: do it if it needs no I/O, else let it wait for a slot."""
        at = op & self.mask
        state = self.lanes[self.ops.lane[at]]
        ready_ns = int(self.times.ready_ns[at])
        if self.live[op].failed:
            self.times.error[at] = DEPENDENCY_FAILED
            known_ns = clock.now_ns() if self.live[op].gone else ready_ns
            self._finish(op, known_ns, failed=True)
            return
        bookkeeping = self.ops.action[at] not in (Action.READ, Action.WRITE)
        if bookkeeping or state.lane.kind == LaneKind.NULL or not self.ops.length_sectors[at]:
            slot_ns = max(due_ns, ready_ns)
            gate = self.ops.action[at] == Action.GATE
            known = bookkeeping and (gate or not self.live[op].gone)
            when_ns = slot_ns if known else max(slot_ns, clock.now_ns())
            self.times.slot_ns[at] = slot_ns
            if gate:
                self.gate_ns[self._clock(op)] = when_ns
            self._take(Done(op, when_ns, when_ns), slot=False)
            return
        if not self._in_range(at, state.lane):
            self.times.error[at] = OUT_OF_RANGE
            self.times.slot_ns[at] = max(due_ns, ready_ns)
            self._finish(op, ready_ns, failed=True)
            return
        heapq.heappush(state.ready, (due_ns, op))

    def _in_range(self, at: int, lane: Lane) -> bool:
        """Whether an op stays within the part of the target that its lane was given."""
        length = int(self.ops.length_sectors[at]) * SECTOR_BYTES
        placed = places(self.ops, at, 0, length)
        low, high = lane.bounds
        inside = all(low <= begin and begin + size <= high for begin, size in placed)
        return inside and sum(size for _, size in placed) == length

    def _submit(self, state: _LaneState) -> None:
        while state.ready and state.busy < state.threads:
            due_ns, op = heapq.heappop(state.ready)
            wanted_ns = max(due_ns, int(self.times.ready_ns[op & self.mask]))
            self.times.slot_ns[op & self.mask] = max(wanted_ns, state.slot_ns)
            state.busy += 1
            state.counters.in_flight_max = max(state.counters.in_flight_max, state.busy)
            state.work.put(op)

    def _take(self, done: Done, slot: bool = True) -> None:
        at = done.op & self.mask
        lane = int(self.ops.lane[at])
        state = self.lanes[lane]
        if slot:
            state.busy -= 1
            state.counters.in_flight_ns += done.complete_ns - done.submit_ns
            if state.ready:
                state.slot_ns = clock.now_ns()
        self.times.submit_ns[at] = done.submit_ns
        self.times.complete_ns[at] = done.complete_ns
        self.times.error[at] = done.error
        self.times.bad_sector[at] = done.bad_sector
        if not done.error and self.ops.action[at] in (Action.READ, Action.WRITE):
            self.control.completed_bytes[lane] += int(self.ops.length_sectors[at]) * SECTOR_BYTES
        self._finish(done.op, done.complete_ns, failed=done.error != 0)

    def _finish(self, op: int, at_ns: int, *, failed: bool) -> None:
        at = op & self.mask
        gate = bool(self.ops.action[at] == Action.GATE)
        self.control.completed_ops[int(self.ops.lane[at])] += 1
        if self.options.mode == Mode.CLOSED and len(self.ops.clock):
            clock_index = self._clock(op)
            if self.ops.clock[at] & GATING and clock_index < len(self.clock_ns):
                self.clock_ns[clock_index] = max(self.clock_ns[clock_index], at_ns)
        if failed:
            self.failed.add(op)
        # Last: from here on the op's place may be another's.
        self.times.state[at] = op << 32 | (FAILED if failed else FINISHED)
        for after in self.live.pop(op).waiters:
            self._inherit(after, failed, at_ns, gate)
            self.live[after].waits -= 1
            if self.live[after].waits == 0:
                self._become_ready(after)

    def _work(self, state: _LaneState) -> None:
        mover = Mover(state.lane, self.ops, self.options, self.control)
        while (op := state.work.get()) is not None:
            self.done.put(mover.do(op))
        with self.lock:
            self.cpu_ns += clock.thread_cpu_ns()
            self.verify_cpu_ns += mover.verify_cpu_ns
            for name in ("retries", "short_transfers", "bad_sectors", "payload_stalls"):
                total = getattr(state.counters, name) + getattr(mover.counters, name)
                setattr(state.counters, name, total)
