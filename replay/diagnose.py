"""After a run: what stands where a read found the wrong bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replay import payload
from replay.loop import SECTOR_BYTES
from replay.read_back import read_back
from replay.tally import SHOWN

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from replay.done import Done
    from replay.loop import Lane

_ALIGN_BYTES = 4096


def describe_mismatches(
    found: Done | None, lanes: tuple[Lane, ...], run_id: int
) -> tuple[str, ...]:
    """Return object, offset and what is there now, of reads that failed verification."""
    return () if found is None else tuple(_describe(found, lanes, run_id))[:SHOWN]


def _describe(found: Done, lanes: tuple[Lane, ...], run_id: int) -> Iterator[str]:
    for at in range(len(found)):
        bad = int(found.bad_sector[at])
        sector = int(found.sector[at]) + bad
        place = int(found.offset_bytes[at]) + bad * SECTOR_BYTES
        expected = payload.Stamp(int(found.key[at]), sector, int(found.generation[at]), run_id)
        there = _read_sector(lanes[found.thread[at]], expected.key, place)
        what = "that can't be read again" if there is None else payload.describe(there, expected)
        yield (
            f"object {expected.key}, byte {sector * SECTOR_BYTES} "
            f"(target offset {place}): generation {expected.generation} expected, "
            f"read again after the run: {what}"
        )


def _read_sector(lane: Lane, key: int, place: int) -> NDArray[np.uint8] | None:
    start = place // _ALIGN_BYTES * _ALIGN_BYTES
    try:
        block = read_back(lane, key, start, _ALIGN_BYTES)
    except OSError:
        return None
    found = block[place - start : place - start + SECTOR_BYTES]
    return found if len(found) == SECTOR_BYTES else None
