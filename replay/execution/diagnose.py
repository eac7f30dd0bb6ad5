"""After a run: what stands where a read found the wrong bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replay.measure.tally import SHOWN
from replay.ops.columns import SECTOR_BYTES
from replay.ops.contract import LaneKind
from replay.payload import stamps as payload
from replay.state.read_back import read_back
from replay.targets.support import folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from replay.ops.contract import Lane
    from replay.ops.done import Done

_ALIGN_BYTES = 4096


def describe_mismatches(done: Done | None, lanes: tuple[Lane, ...], run_id: int) -> tuple[str, ...]:
    """Return object, offset and what is there now, of reads that failed verification."""
    return () if done is None else tuple(_describe(done, lanes, run_id))[:SHOWN]


def _describe(done: Done, lanes: tuple[Lane, ...], run_id: int) -> Iterator[str]:
    for at in range(len(done)):
        bad = int(done.bad_sector[at])
        sector = int(done.sector[at]) + bad
        place = int(done.bad_offset_bytes[at])
        expected = payload.Stamp(int(done.key[at]), sector, int(done.generation[at]), run_id)
        yield (
            f"object {expected.key}, byte {sector * SECTOR_BYTES} "
            f"(target offset {place}): generation {expected.generation} expected, "
            f"read again after the run: {_there(lanes[done.thread[at]], expected, place)}"
        )


def _there(lane: Lane, expected: payload.Stamp, place: int) -> str:
    """Return a description of the sector at `place`."""
    start = place // _ALIGN_BYTES * _ALIGN_BYTES
    try:
        block = read_back(lane, expected.key, start, _ALIGN_BYTES)
    except OSError as error:
        return f"it can't be read: {error.strerror}"
    sector = block[place - start : place - start + SECTOR_BYTES]
    if len(sector) == SECTOR_BYTES:
        return payload.describe(sector, expected)
    if lane.kind == LaneKind.DIR and not folder.has_object(lane.fd, expected.key):
        return "its file isn't there: a lost write, or an object that no run has written"
    return f"it ends at byte {start + len(block)}: a torn write"
