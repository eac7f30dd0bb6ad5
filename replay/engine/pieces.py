"""One op in the engine `python`: each piece is prepared, moved and checked in turn."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from replay import clock
from replay.engine.native import allocate
from replay.ops.columns import INTERRUPTED, NO_TIME_NS, SECTOR_BYTES, VERIFY_FAILED, Ops
from replay.ops.contract import Action, Control, Lane, LaneKind, LoopOptions, Verify
from replay.ops.counters import LaneCounters
from replay.ops.divided import places
from replay.payload import stamps as payload

if TYPE_CHECKING:
    from numpy.typing import NDArray

_RETRIED = (errno.EAGAIN, errno.EBUSY, errno.EINTR)
_PAYLOAD_POLL_NS = 50_000


@dataclass(slots=True)
class Done:
    """What a worker says of an op it has done."""

    op: int
    submit_ns: int = NO_TIME_NS
    complete_ns: int = NO_TIME_NS
    error: int = 0
    bad_sector: int = -1


@dataclass(slots=True)
class Mover:
    """One worker's way of doing a lane's ops, and what it has counted."""

    lane: Lane
    ops: Ops
    options: LoopOptions
    control: Control
    buffer: NDArray[np.uint8] = field(init=False)
    counters: LaneCounters = field(default_factory=LaneCounters)
    verify_cpu_ns: int = 0

    def __post_init__(self) -> None:
        self.buffer = allocate(self.lane.io_bytes)[0]

    def do(self, op: int) -> Done:
        """Do a read or write whole; return what came of it."""
        at = op & (self.ops.capacity - 1)
        length = int(self.ops.length_sectors[at]) * SECTOR_BYTES
        done = Done(op)
        for begin in range(0, length, self.lane.io_bytes):
            piece = self.buffer[: min(self.lane.io_bytes, length - begin)]
            if self.ops.action[at] == Action.WRITE and not self._prepare(at, begin, piece):
                done.error = INTERRUPTED
                break
            if done.submit_ns == NO_TIME_NS:
                done.submit_ns = clock.now_ns()
            done.error = self._transfer(at, begin, piece)
            done.complete_ns = clock.now_ns()
            if done.error:
                break
            if self.ops.action[at] == Action.READ and self.options.verify != Verify.NONE:
                self._verify(at, begin, piece, done)
        if done.bad_sector >= 0 and not done.error:
            done.error = VERIFY_FAILED
        return done

    def _stamps(self, at: int, begin: int, length: int) -> NDArray[np.uint64]:
        sector = int(self.ops.sector[at]) + begin // SECTOR_BYTES
        generation = int(self.ops.generation[at])
        run_id = self.options.run_id
        return payload.stamps(int(self.ops.key[at]), sector, generation, run_id, length)

    def _body(self, at: int, begin: int, length: int) -> NDArray[np.uint8]:
        arena = self.options.arena
        place = (int(self.ops.arena_bytes[at]) + begin) % len(arena)
        if place + length <= len(arena):
            return arena[place : place + length]
        return np.concatenate((arena[place:], arena[: place + length - len(arena)]))

    def _payload_there(self, end: int) -> bool:
        """Wait until the payload up to `end` has been made; False if stopped before."""
        filled = self.options.filled_bytes
        if filled is None or end <= filled[0]:
            return True
        self.counters.payload_stalls += 1
        while end > filled[0]:
            if self.control.stop[0]:
                return False
            clock.sleep_ns(_PAYLOAD_POLL_NS)
        return True

    def _prepare(self, at: int, begin: int, piece: NDArray[np.uint8]) -> bool:
        """Fill the buffer with what the piece writes; False if that never came."""
        if not self._payload_there(int(self.ops.arena_bytes[at]) + begin + len(piece)):
            return False
        piece[:] = self._body(at, begin, len(piece))
        if self.options.stamp:
            payload.sectors(piece)[:] = self._stamps(at, begin, len(piece))
        return True

    def _verify(self, at: int, begin: int, piece: NDArray[np.uint8], done: Done) -> None:
        cpu_ns = clock.thread_cpu_ns()
        bad = (payload.sectors(piece) != self._stamps(at, begin, len(piece))).any(axis=1)
        body = payload.verifies_body(self.options.verify, done.op, self.options.run_id)
        self.counters.checked_bytes += len(piece)
        if body:
            self.counters.body_bytes += len(piece)
            self.counters.body_reads += begin == 0
            words = SECTOR_BYTES // 8
            written = self._body(at, begin, len(piece)).view("<u8").reshape(-1, words)
            bad |= (piece.view("<u8").reshape(-1, words)[:, 2:] != written[:, 2:]).any(axis=1)
        self.counters.bad_sectors += int(bad.sum())
        if bad.any() and done.bad_sector < 0:
            done.bad_sector = begin // SECTOR_BYTES + int(bad.argmax())
        self.verify_cpu_ns += clock.thread_cpu_ns() - cpu_ns

    def _transfer(self, at: int, begin: int, piece: NDArray[np.uint8]) -> int:
        """Move one piece whole, extent by extent; return 0 or an errno."""
        moved = 0
        for offset, length in places(self.ops, at, begin, len(piece)):
            error = self._move(at, offset, piece[moved : moved + length])
            if error:
                return error
            moved += length
        return 0

    def _move(self, at: int, offset: int, piece: NDArray[np.uint8]) -> int:
        """Move bytes that lie side by side; return 0 or an errno."""
        write = self.ops.action[at] == Action.WRITE
        if self.lane.kind == LaneKind.MEMORY:
            assert self.lane.pool is not None
            pooled = self.lane.pool[offset : offset + len(piece)]
            np.copyto(pooled, piece) if write else np.copyto(piece, pooled)
            return 0
        view = piece.data
        done = 0
        while done < len(view):
            try:
                move = os.pwritev if write else os.preadv
                moved = move(self.lane.fd, [view[done:]], offset + done)
            except OSError as error:
                if error.errno in _RETRIED:
                    self.counters.retries += 1
                    continue
                return error.errno or errno.EIO
            if moved == 0:
                return errno.EIO  # the end of the target: never a success
            self.counters.short_transfers += moved < len(view) - done
            done += moved
        return 0
