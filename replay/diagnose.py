"""After a run: what stands where a read found the wrong bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from replay import payload, preflight
from replay.loop import VERIFY_FAILED, Lane, LaneKind, Ops, Times

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

SHOWN = 5
_ALIGN_BYTES = 4096


def describe_mismatches(
    ops: Ops, times: Times, lanes: tuple[Lane, ...], run_id: int
) -> tuple[str, ...]:
    """Return object, offset and what is found there now, of the first mismatches."""
    failed = np.flatnonzero(times.error == VERIFY_FAILED)[:SHOWN]
    return tuple(_describe(ops, times, lanes, run_id, failed.tolist()))


def _describe(
    ops: Ops, times: Times, lanes: tuple[Lane, ...], run_id: int, failed: list[int]
) -> Iterator[str]:
    for op in failed:
        bad = int(times.bad_sector[op])
        sector = int(ops.sector[op]) + bad
        place = int(ops.offset_bytes[op]) + bad * payload.SECTOR_BYTES
        expected = payload.Stamp(int(ops.key[op]), sector, int(ops.generation[op]), run_id)
        found = _read_sector(lanes[ops.lane[op]], place)
        what = "that can't be read again" if found is None else payload.describe(found, expected)
        yield (
            f"object {expected.key}, byte {sector * payload.SECTOR_BYTES} "
            f"(target offset {place}): generation {expected.generation} expected, "
            f"read again after the run: {what}"
        )


def _read_sector(lane: Lane, place: int) -> NDArray[np.uint8] | None:
    if lane.kind == LaneKind.MEMORY and lane.pool is not None:
        return lane.pool[place : place + payload.SECTOR_BYTES]
    start = place // _ALIGN_BYTES * _ALIGN_BYTES
    try:
        block = preflight.read_block(lane.fd, start, _ALIGN_BYTES)
    except OSError:
        return None
    found = block[place - start : place - start + payload.SECTOR_BYTES]
    return found if len(found) == payload.SECTOR_BYTES else None
