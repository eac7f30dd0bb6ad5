"""Finished ops, as they are taken out of the ring: what they are in the trace, and their times."""

from __future__ import annotations

from collections import ChainMap
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.trace.cell import URGENCY_BITS, op_of, phase_of, tier_of
from replay.ops.columns import DIVIDED, EXTRA, NO_TIME_NS, SECTOR_BYTES, Ops, Times
from replay.ops.contract import Action, Mode
from replay.ops.divided import places

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Done:
    """Columns of consecutive ops of a trace, in its order. Times are ns on the loop's clock.

    `lane`: the tier's, `thread`: the loop thread. `due_ns` in max mode is when the op was ready.
    `run_bytes` of an op lie side by side from `offset_bytes` on: all, if it is on one extent.
    `bad_offset_bytes`: where on the target its bad sector is.
    """

    number: NDArray[np.int64]
    cell: NDArray[np.uint8]
    """A `kvtrace.trace.cell`, and the request's urgency below it."""
    lane: NDArray[np.uint8]
    thread: NDArray[np.uint8]
    action: NDArray[np.uint8]
    offset_bytes: NDArray[np.uint64]
    run_bytes: NDArray[np.int64]
    bad_offset_bytes: NDArray[np.uint64]
    length_bytes: NDArray[np.int64]
    size_bytes: NDArray[np.int64]
    key: NDArray[np.uint64]
    sector: NDArray[np.uint32]
    generation: NDArray[np.uint32]
    due_ns: NDArray[np.int64]
    ready_ns: NDArray[np.int64]
    slot_ns: NDArray[np.int64]
    submit_ns: NDArray[np.int64]
    complete_ns: NDArray[np.int64]
    error: NDArray[np.int32]
    bad_sector: NDArray[np.int64]
    extents: Mapping[int, list[tuple[int, int]]] = field(default_factory=dict)
    """Offset and length of the extents of ops that have several, by their numbers."""

    def __len__(self) -> int:
        return len(self.number)

    @property
    def tier(self) -> NDArray[np.uint8]:
        """Wire values of the ops' tiers."""
        return np.asarray(tier_of(self.cell >> URGENCY_BITS), np.uint8)

    @property
    def phase(self) -> NDArray[np.uint8]:
        """Wire values of the ops' phases."""
        return np.asarray(phase_of(self.cell >> URGENCY_BITS), np.uint8)

    @property
    def qos(self) -> NDArray[np.uint8]:
        """0 where the trace doesn't say, else 1 + the wire value."""
        return self.cell & np.uint8(3)

    @property
    def op(self) -> NDArray[np.uint8]:
        """Wire values of what the ops are."""
        return np.asarray(op_of(self.cell >> URGENCY_BITS), np.uint8)

    @property
    def moves(self) -> NDArray[np.bool_]:
        """Whether an op moves bytes."""
        return np.asarray((self.action == Action.READ) | (self.action == Action.WRITE))

    @property
    def ran(self) -> NDArray[np.bool_]:
        """Whether an op was submitted."""
        return np.asarray(self.submit_ns != NO_TIME_NS)

    @property
    def good(self) -> NDArray[np.bool_]:
        """Whether an op completed without error."""
        return np.asarray(self.ran & (self.complete_ns != NO_TIME_NS) & (self.error == 0))

    def select(self, which: NDArray[np.bool_] | NDArray[np.int64]) -> Done:
        """Return some of the ops."""
        if which.dtype == np.bool_:
            if which.all():
                return self
            which = np.flatnonzero(which)  # once, not per column
        columns = {name: getattr(self, name)[which] for name in _COLUMNS}
        return Done(**columns, extents=self.extents)

    @staticmethod
    def join(parts: Sequence[Done]) -> Done:
        """Return the ops of all parts, one part after the other."""
        if len(parts) == 1:
            return parts[0]
        columns = {name: np.concatenate([getattr(p, name) for p in parts]) for name in _COLUMNS}
        return Done(**columns, extents=dict(ChainMap(*(dict(p.extents) for p in parts))))


_COLUMNS = tuple(column.name for column in fields(Done) if column.name != "extents")


@dataclass(frozen=True, slots=True)
class Taker:
    """Takes finished ops out of a ring. `threads`: loop threads per lane."""

    ops: Ops
    times: Times
    mode: Mode
    threads: int = 1

    def take(self, begin: int, end: int, start_ns: int) -> Done:
        """Return ops [begin, end), less those that aren't the trace's. The ring stays as it is."""
        mask = self.ops.capacity - 1
        number = np.arange(begin, end)
        number = number[self.ops.pad_bytes[number & mask] != EXTRA]
        at = number & mask
        ops, times = self.ops, self.times
        length = ops.length_sectors[at].astype(np.int64) * SECTOR_BYTES
        thread = ops.lane[at]
        action = ops.action[at]
        moves = (action == Action.READ) | (action == Action.WRITE)
        ready = times.ready_ns[at]
        due = ops.due_ns[at]
        first, run, bad, extents = self._places(number, at, length)
        known = ready if self.mode == Mode.MAX else np.where(due == NO_TIME_NS, due, due + start_ns)
        return Done(
            number=number,
            cell=ops.cell[at],
            lane=thread // np.uint8(self.threads),
            thread=thread,
            action=action,
            offset_bytes=first,
            run_bytes=run,
            bad_offset_bytes=bad,
            length_bytes=length,
            size_bytes=np.where(moves, length - ops.pad_bytes[at], 0),
            key=ops.key[at],
            sector=ops.sector[at],
            generation=ops.generation[at],
            due_ns=known,
            ready_ns=ready,
            slot_ns=times.slot_ns[at],
            submit_ns=times.submit_ns[at],
            complete_ns=times.complete_ns[at],
            error=times.error[at],
            bad_sector=times.bad_sector[at],
            extents=extents,
        )

    def _places(
        self, number: NDArray[np.int64], at: NDArray[np.int64], length: NDArray[np.int64]
    ) -> tuple[
        NDArray[np.uint64], NDArray[np.int64], NDArray[np.uint64], dict[int, list[tuple[int, int]]]
    ]:
        """Return where ops begin, how many bytes lie there in a row, where a bad sector is.

        And the extents of those that have several.
        """
        extents: dict[int, list[tuple[int, int]]] = {}
        first, run = self.ops.offset_bytes[at], length.copy()
        skip = np.maximum(self.times.bad_sector[at], 0) * SECTOR_BYTES
        bad = first + skip.astype(np.uint64)
        for index in np.flatnonzero(first >= np.uint64(DIVIDED)).tolist():
            op, size, bad_byte = int(at[index]), int(length[index]), int(skip[index])
            if placed := places(self.ops, op, bad_byte, SECTOR_BYTES):
                bad[index] = placed[0][0]
            if placed := places(self.ops, op, 0, size):
                first[index], run[index] = placed[0]
                extents[int(number[index])] = placed
        return first, run, bad, extents

    def payload_end(self, begin: int, end: int) -> int:
        """Return where in the payload's stream the last of ops [begin, end) that writes ends."""
        at = np.arange(begin, end) & (self.ops.capacity - 1)
        at = at[self.ops.action[at] == Action.WRITE]
        ends = self.ops.arena_bytes[at] + self.ops.length_sectors[at] * np.uint64(SECTOR_BYTES)
        return int(ends.max(initial=np.uint64(0)))
