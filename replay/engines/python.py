"""The engine `python`: threads and preadv/pwritev.

The fallback without a compiler, and the reference that the compiled engines are tested against.

What it costs: an object's pieces go one after the other through one thread, at most
`THREADS` at once, and every op takes the interpreter for 50 to 200 µs; submit times are late by
as much, more when the process is busy.
"""

from __future__ import annotations

import errno
import heapq
import os
import queue
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.units import S_NS
from replay import clock, payload
from replay.loop import (
    DEPENDENCY_FAILED,
    INTERRUPTED,
    NO_TIME_NS,
    VERIFY_FAILED,
    Action,
    Control,
    Lane,
    LaneCounters,
    LaneKind,
    LoopOptions,
    Mode,
    Ops,
    Outcome,
    Times,
    Verify,
)
from replay.native import allocate

if TYPE_CHECKING:
    from numpy.typing import NDArray

THREADS = 16
_RETRIED = (errno.EAGAIN, errno.EBUSY, errno.EINTR)
_POLL_NS = S_NS // 20


@dataclass(slots=True)
class _Done:
    """What a worker says of an op it has done."""

    op: int
    submit_ns: int
    complete_ns: int
    error: int
    bad_sector: int


class PythonEngine:
    """Runs ops by threads."""

    name = "python"

    def run(
        self, lanes: tuple[Lane, ...], ops: Ops, options: LoopOptions, control: Control
    ) -> Outcome:
        """Run all ops to their end (or to `control.stop`) and return what happened."""
        return _Run(lanes, ops, options, control).run()


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


class _Run:
    """One call of the engine. The calling thread decides, workers do I/O."""

    def __init__(
        self, lanes: tuple[Lane, ...], ops: Ops, options: LoopOptions, control: Control
    ) -> None:
        self.ops, self.options, self.control = ops, options, control
        self.lanes = [_LaneState(lane, min(THREADS, lane.queue_depth)) for lane in lanes]
        self.times = Times.empty(len(ops.due_ns))
        self.waits = ops.wait_count.astype(np.int64)
        self.failed = np.zeros(len(ops.due_ns), bool)
        self.early: list[tuple[int, int]] = []
        """Heap of (due, op) of ops that wait for nothing but their time."""
        self.done: queue.SimpleQueue[_Done] = queue.SimpleQueue()
        self.left = len(ops.due_ns)
        self.start_ns = 0
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
        for op in np.flatnonzero(self.waits == 0).tolist():
            self._become_ready(op, self.start_ns)
        while self.left and not self.control.stop[0]:
            self._step()
        self._drain()
        for state in self.lanes:
            for _ in range(state.threads):
                state.work.put(None)
        for worker in workers:
            worker.join()
        return Outcome(
            self.start_ns,
            self.times,
            tuple(state.counters for state in self.lanes),
            self.cpu_ns + clock.thread_cpu_ns() - cpu_ns,
            self.verify_cpu_ns,
        )

    def _drain(self) -> None:
        while any(state.busy for state in self.lanes):
            self._take(self.done.get())
        if self.left:
            never = (self.times.complete_ns == NO_TIME_NS) & (self.times.error == 0)
            self.times.error[never] = INTERRUPTED

    def _due_ns(self, op: int) -> int:
        return 0 if self.options.mode == Mode.MAX else self.start_ns + int(self.ops.due_ns[op])

    def _become_ready(self, op: int, now_ns: int) -> None:
        """All predecessors of `op` have completed."""
        self.times.ready_ns[op] = now_ns
        heapq.heappush(self.early, (self._due_ns(op), op))

    def _step(self) -> None:
        """Start what is due and has a slot, then wait for a completion or the next due time."""
        now_ns = clock.now_ns()
        while self.early and self.early[0][0] <= now_ns:
            due_ns, op = heapq.heappop(self.early)
            self._offer(op, due_ns)
        for state in self.lanes:
            self._submit(state)
        wait_ns = self.early[0][0] - clock.now_ns() if self.early else _POLL_NS
        idle = not any(state.busy for state in self.lanes)
        if idle and self.early and wait_ns <= 0:
            return
        try:
            self._take(self.done.get(timeout=max(0, min(wait_ns, _POLL_NS)) / S_NS))
            while True:
                self._take(self.done.get_nowait())
        except queue.Empty:
            return

    def _offer(self, op: int, due_ns: int) -> None:
        """`op` is ready and due: do it if it needs no I/O, else let it wait for a slot."""
        state = self.lanes[self.ops.lane[op]]
        if self.failed[op]:
            self.times.error[op] = DEPENDENCY_FAILED
            self._finish(op, int(self.times.ready_ns[op]), failed=True)
            return
        if self.ops.action[op] == Action.NONE or state.lane.kind == LaneKind.NULL:
            now_ns = clock.now_ns()
            self.times.slot_ns[op] = max(due_ns, int(self.times.ready_ns[op]))
            self._take(_Done(op, now_ns, now_ns, 0, -1), slot=False)
            return
        heapq.heappush(state.ready, (due_ns, op))

    def _submit(self, state: _LaneState) -> None:
        while state.ready and state.busy < state.threads:
            due_ns, op = heapq.heappop(state.ready)
            wanted_ns = max(due_ns, int(self.times.ready_ns[op]))
            self.times.slot_ns[op] = max(wanted_ns, state.slot_ns)
            state.busy += 1
            state.counters.in_flight_max = max(state.counters.in_flight_max, state.busy)
            state.work.put(op)

    def _take(self, done: _Done, slot: bool = True) -> None:
        op, state = done.op, self.lanes[self.ops.lane[done.op]]
        if slot:
            state.busy -= 1
            if state.ready:
                state.slot_ns = clock.now_ns()
        self.times.submit_ns[op] = done.submit_ns
        self.times.complete_ns[op] = done.complete_ns
        self.times.error[op] = done.error
        self.times.bad_sector[op] = done.bad_sector
        if not done.error:
            self.control.completed_bytes[self.ops.lane[op]] += self.ops.length_bytes[op]
        self._finish(op, done.complete_ns, failed=done.error != 0)

    def _finish(self, op: int, at_ns: int, *, failed: bool) -> None:
        self.left -= 1
        self.control.completed_ops[self.ops.lane[op]] += 1
        begin, end = self.ops.successor_begin[op], self.ops.successor_begin[op + 1]
        for after in self.ops.successors[int(begin) : int(end)].tolist():
            self.failed[after] |= failed
            self.times.ready_ns[after] = max(int(self.times.ready_ns[after]), at_ns)
            self.waits[after] -= 1
            if self.waits[after] == 0:
                self._become_ready(after, int(self.times.ready_ns[after]))

    def _work(self, state: _LaneState) -> None:
        buffer = allocate(state.lane.io_bytes)[0]
        counters = LaneCounters()
        verify_ns = 0
        while (op := state.work.get()) is not None:
            done, cpu_ns = self._do(state.lane, op, buffer, counters)
            verify_ns += cpu_ns
            self.done.put(done)
        with self.lock:
            self.cpu_ns += clock.thread_cpu_ns()
            self.verify_cpu_ns += verify_ns
            state.counters.retries += counters.retries
            state.counters.short_transfers += counters.short_transfers
            state.counters.bad_sectors += counters.bad_sectors

    def _do(
        self, lane: Lane, op: int, buffer: NDArray[np.uint8], counters: LaneCounters
    ) -> tuple[_Done, int]:
        length = int(self.ops.length_bytes[op])
        done = _Done(op, NO_TIME_NS, NO_TIME_NS, 0, -1)
        verify_ns = 0
        for begin in range(0, length, lane.io_bytes):
            piece = buffer[: min(lane.io_bytes, length - begin)]
            if self.ops.action[op] == Action.WRITE:
                self._prepare(op, begin, piece)
            if done.submit_ns == NO_TIME_NS:
                done.submit_ns = clock.now_ns()
            done.error = self._transfer(lane, op, begin, piece, counters)
            done.complete_ns = clock.now_ns()
            if done.error:
                break
            if self.ops.action[op] == Action.READ and self.options.verify != Verify.NONE:
                cpu_ns = clock.thread_cpu_ns()
                bad = self._check(op, begin, piece)
                verify_ns += clock.thread_cpu_ns() - cpu_ns
                counters.bad_sectors += len(bad)
                if len(bad) and done.bad_sector < 0:
                    done.bad_sector = begin // payload.SECTOR_BYTES + int(bad[0])
        if done.bad_sector >= 0 and not done.error:
            done.error = VERIFY_FAILED
        return done, verify_ns

    def _stamps(self, op: int, begin: int, length: int) -> NDArray[np.uint64]:
        sector = int(self.ops.sector[op]) + begin // payload.SECTOR_BYTES
        generation = int(self.ops.generation[op])
        run_id = self.options.run_id
        return payload.stamps(int(self.ops.key[op]), sector, generation, run_id, length)

    def _body(self, op: int, begin: int, length: int) -> NDArray[np.uint8]:
        arena = self.options.arena
        at = (int(self.ops.arena_bytes[op]) + begin) % len(arena)
        if at + length <= len(arena):
            return arena[at : at + length]
        return np.concatenate((arena[at:], arena[: at + length - len(arena)]))

    def _prepare(self, op: int, begin: int, piece: NDArray[np.uint8]) -> None:
        piece[:] = self._body(op, begin, len(piece))
        payload.sectors(piece)[:] = self._stamps(op, begin, len(piece))

    def _check(self, op: int, begin: int, piece: NDArray[np.uint8]) -> NDArray[np.int64]:
        expected = self._stamps(op, begin, len(piece))
        bad = (payload.sectors(piece) != expected).any(axis=1)
        if self.options.verify == Verify.FULL:
            words = payload.SECTOR_BYTES // 8
            body = self._body(op, begin, len(piece)).view("<u8").reshape(-1, words)
            bad |= (piece.view("<u8").reshape(-1, words)[:, 2:] != body[:, 2:]).any(axis=1)
        return np.flatnonzero(bad)

    def _transfer(
        self, lane: Lane, op: int, begin: int, piece: NDArray[np.uint8], counters: LaneCounters
    ) -> int:
        """Move one piece whole; return 0 or an errno."""
        offset = int(self.ops.offset_bytes[op]) + begin
        write = self.ops.action[op] == Action.WRITE
        if lane.kind == LaneKind.MEMORY:
            assert lane.pool is not None
            there = lane.pool[offset : offset + len(piece)]
            np.copyto(there, piece) if write else np.copyto(piece, there)
            return 0
        view = piece.data
        done = 0
        while done < len(view):
            try:
                move = os.pwritev if write else os.preadv
                moved = move(lane.fd, [view[done:]], offset + done)
            except OSError as error:
                if error.errno in _RETRIED:
                    counters.retries += 1
                    continue
                return error.errno or errno.EIO
            if moved == 0:
                return errno.EIO  # the end of the target: never a success
            counters.short_transfers += moved < len(view) - done
            done += moved
        return 0
