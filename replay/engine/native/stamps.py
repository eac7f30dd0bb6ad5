"""The loop's own stamping and checking of a buffer, for tools and tests."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.native.library import address
from replay.engine.native import library
from replay.ops.columns import SECTOR_BYTES

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Stamp:
    """Whose bytes a run of sectors is; `sector` is the first one's index in its object."""

    key: int
    sector: int
    generation: int
    run_id: int


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check found: the first bad sector (-1 if none) and how many were bad."""

    first_bad_sector: int
    bad_sectors: int


def _whole_sectors(data: NDArray[np.uint8]) -> int:
    if data.dtype != np.uint8 or not data.flags.c_contiguous or data.size % SECTOR_BYTES:
        raise TypeError("takes contiguous bytes of whole 512-byte sectors")
    return data.size


def stamp(data: NDArray[np.uint8], expected: Stamp) -> None:
    """Write the stamps of consecutive sectors into `data`."""
    if not data.flags.writeable:
        raise TypeError("takes writable bytes")
    library.load().kv_stamp(
        address(data),
        _whole_sectors(data),
        expected.key,
        expected.sector,
        expected.generation,
        expected.run_id,
    )


def check(
    data: NDArray[np.uint8],
    expected: Stamp,
    body: NDArray[np.uint8] | None = None,
    body_offset_bytes: int = 0,
) -> Checked:
    """Return which sectors of `data` are not what `expected` says.

    With `body` (an arena), the 496 bytes after each stamp are compared too, with those at
    `body_offset_bytes % len(body)` onwards.
    """
    bad_sectors = ctypes.c_uint64(0)
    first: int = library.load().kv_check(
        address(data),
        _whole_sectors(data),
        expected.key,
        expected.sector,
        expected.generation,
        expected.run_id,
        address(body),
        0 if body is None else _whole_sectors(body),
        body_offset_bytes,
        ctypes.byref(bad_sectors),
    )
    return Checked(first_bad_sector=first, bad_sectors=bad_sectors.value)


def found(data: NDArray[np.uint8]) -> list[Stamp]:
    """Return the stamp each sector of `data` carries, whether or not it is a true one."""
    words = data[: _whole_sectors(data)].view("<u8").reshape(-1, SECTOR_BYTES // 8)[:, :2]
    return [
        Stamp(
            key=int(key),
            sector=int(word) & 0x7FFFFFFF,
            generation=int(word) >> 31 & 0x1FFFF,
            run_id=int(word) >> 48,
        )
        for key, word in words.tolist()
    ]
