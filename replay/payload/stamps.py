"""Unique bytes for every write: an arena from dgen-py, and a stamp in every sector."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.errors import UsageError
from kvtrace.units import GIB, MIB, format_bytes
from replay.ops.columns import SECTOR_BYTES
from replay.ops.contract import Verify
from replay.payload.producer import Stream

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAMPLE_ONE_IN = 128
"""`Verify.SAMPLE` compares every byte of one read in this number, and the stamps of all."""
STAMP_BYTES = 16
"""At the start of each sector."""
SECTOR_MASK = (1 << 31) - 1
GENERATION_MASK = (1 << 17) - 1
_WORD_MASK = (1 << 64) - 1
RUN_MASK = (1 << 16) - 1
DEFAULT_ARENA_BYTES = GIB
_FILL_BYTES = 32 * MIB
RATIO_MAX = 1000


def verifies_body(verify: Verify, op: int, run_id: int) -> bool:
    """Return whether every byte of a read is compared, not only its stamps (as stamp.c does)."""
    if verify != Verify.SAMPLE:
        return verify == Verify.FULL
    value = op & 0xFFFFFFFF | run_id << 32
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _WORD_MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & _WORD_MASK
    return (value ^ value >> 31) % SAMPLE_ONE_IN == 0


def available_bytes() -> int:
    """Return how much memory could be taken without swapping."""
    with Path("/proc/meminfo").open(encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 0


def arena_size(wanted_bytes: int | None, io_bytes: int) -> int:
    """Return the arena's size, a multiple of `io_bytes`. Raises UsageError."""
    if wanted_bytes is None:
        wanted_bytes = max(io_bytes, min(DEFAULT_ARENA_BYTES, available_bytes() // 8))
    size = wanted_bytes // io_bytes * io_bytes
    if size < io_bytes:
        raise UsageError(
            "arena smaller than one I/O",
            where="--arena",
            got=format_bytes(wanted_bytes),
            accepted=f"at least --io-size, {format_bytes(io_bytes)}",
        )
    if size > available_bytes():
        raise UsageError(
            "arena larger than the free memory",
            where="--arena",
            got=format_bytes(size),
            accepted=f"at most {format_bytes(available_bytes())}",
        )
    return size


def check_ratio(value: float, where: str) -> int:
    """Return a ratio as dgen-py takes it. Raises UsageError: it would cut fractions off."""
    if not (1 <= value <= RATIO_MAX and value == int(value)):
        raise UsageError(
            "not a whole ratio: dgen-py cuts fractions off",
            where=where,
            got=value,
            accepted=f"1 (nothing to gain), 2, 3, … {RATIO_MAX}",
        )
    return int(value)


def fill(
    arena: NDArray[np.uint8], run_id: int, dedup_ratio: float = 1, compress_ratio: float = 1
) -> None:
    """Fill `arena` with bytes that depend on `run_id` and the ratios only. Raises UsageError.

    With a dedup ratio each ratio · 4 MiB hold 4 MiB of distinct blocks; what is written beyond the
    arena's size repeats once more. Compressibility is runs of zeros in each MiB, which also dedup.
    """
    dedup = check_ratio(dedup_ratio, "--dedup-ratio")
    stream = Stream(run_id, dedup, check_ratio(compress_ratio, "--compress-ratio"))
    for begin in range(0, len(arena), _FILL_BYTES):
        stream.fill(arena[begin : begin + _FILL_BYTES].data)


def stamps(
    key: int, sector: int, generation: int, run_id: int, length_bytes: int
) -> NDArray[np.uint64]:
    """Return the stamps of consecutive sectors, shape [sectors, 2].

    A stamp is the key and a word: sector (31 bits), generation (17), run id (16), from the lowest
    bit up.
    """
    count = length_bytes // SECTOR_BYTES
    stamps = np.empty((count, 2), np.uint64)
    stamps[:, 0] = key
    stamps[:, 1] = (np.arange(sector, sector + count, dtype=np.uint64)) & np.uint64(SECTOR_MASK)
    stamps[:, 1] |= np.uint64((generation & GENERATION_MASK) << 31 | (run_id & RUN_MASK) << 48)
    return stamps


def sectors(data: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return the stamps within `data`, a view of shape [sectors, 2]."""
    return data.view("<u8").reshape(-1, SECTOR_BYTES // 8)[:, :2]


@dataclass(frozen=True, slots=True)
class Stamp:
    """What one sector says of itself."""

    key: int
    sector: int
    generation: int
    run_id: int

    @classmethod
    def of(cls, data: NDArray[np.uint8]) -> Stamp:
        """Return the stamp at the start of `data`."""
        key, word = (int(value) for value in data[:16].view("<u8"))
        return cls(key, word & SECTOR_MASK, word >> 31 & GENERATION_MASK, word >> 48)

    def __str__(self) -> str:
        return (
            f"key {self.key}, sector {self.sector}, generation {self.generation}, run {self.run_id}"
        )


def describe(stamps: NDArray[np.uint8], expected: Stamp) -> str:
    """Return what a sector holds, told against what it should hold."""
    if not stamps.any():
        return "only zeros"
    stamp = Stamp.of(stamps)
    if stamp == expected:
        return "the right stamp and a wrong body"
    # One of the three agrees: a stamp, of another object, another run, or both.
    if (
        stamp.run_id == expected.run_id
        or stamp.key == expected.key
        or stamp.sector == expected.sector
    ):
        return f"the stamp of {stamp}"
    return f"no stamp of this run ({stamps[:16].tobytes().hex()})"
