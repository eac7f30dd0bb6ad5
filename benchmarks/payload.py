"""What unique payload costs, and what really lands: four ways to make the bytes of a write.

Cost is CPU time of making the bytes, medians of `--repeats` interleaved rounds with the range. What
lands is a file of three times the pool's size, written by each way and read back: dedup of aligned
blocks, compression of 64 KiB pieces, and zstd with a window that holds the whole file.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import xxhash
import zstandard
from common import GIB, MIB, NS_PER_S, parse_size, print_table, size_name
from numpy.typing import NDArray

from replay.engine import native
from replay.payload.fresh import CHUNK_BYTES, default_threads
from replay.payload.producer import Stream
from replay.payload.reduction import Measure

OBJECT_BYTES = 2 * MIB
FILE_POOLS = 3
RUN_ID = 5
Bytes = NDArray[np.uint8]
Way = Callable[[Bytes, int], Iterator[Bytes]]
"""Gives the bytes of so many objects, one after the other; each is valid until the next."""


def _stamped(data: Bytes, key: int) -> Bytes:
    native.stamp(data, native.Stamp(key, 0, 1, RUN_ID))
    return data


def fresh(_pool: Bytes, count: int) -> Iterator[Bytes]:
    """Give bytes that dgen-py makes for every object anew."""
    stream = Stream(RUN_ID, threads=default_threads())
    chunk = native.allocate(CHUNK_BYTES)[0]
    places = range(0, CHUNK_BYTES, OBJECT_BYTES)
    for key in range(count):
        place = places[key % len(places)]
        if place == 0:
            stream.fill(chunk.data)
        yield chunk[place : place + OBJECT_BYTES]


def fresh_stamped(pool: Bytes, count: int) -> Iterator[Bytes]:
    """Give the same with a stamp per sector."""
    for key, data in enumerate(fresh(pool, count)):
        yield _stamped(data, key)


def arena(pool: Bytes, count: int) -> Iterator[Bytes]:
    """Give consecutive places of the pool, over and over, with a stamp per sector."""
    for key in range(count):
        place = key * OBJECT_BYTES % len(pool)
        yield _stamped(pool[place : place + OBJECT_BYTES], key)


def _sliced(pool: Bytes, count: int, step: int) -> Iterator[Bytes]:
    buffer = native.allocate(OBJECT_BYTES)[0]
    places = (len(pool) - OBJECT_BYTES) // step
    for key in range(count):
        place = xxhash.xxh64_intdigest(key.to_bytes(8, "little")) % places * step
        buffer[:] = pool[place : place + OBJECT_BYTES]
        yield buffer


def sliced(pool: Bytes, count: int) -> Iterator[Bytes]:
    """Give copies of the pool from where the key's hash says, a multiple of 2 bytes."""
    return _sliced(pool, count, 2)


def sliced_aligned(pool: Bytes, count: int) -> Iterator[Bytes]:
    """Give copies from multiples of 4 KiB."""
    return _sliced(pool, count, 4096)


WAYS: dict[str, Way] = {
    "dgen fresh": fresh,
    "arena + stamps": arena,
    "pool slices, any place": sliced,
    "pool slices, 4 KiB places": sliced_aligned,
    "dgen fresh + stamps": fresh_stamped,
}


def cost_gb_per_s(way: Way, pool: Bytes, size_bytes: int) -> float:
    """Return GB per CPU-second of making that many bytes."""
    begin_ns = time.process_time_ns()
    for _ in way(pool, size_bytes // OBJECT_BYTES):
        pass
    return size_bytes / 1e9 / ((time.process_time_ns() - begin_ns) / NS_PER_S)


def landed(way: Way, pool: Bytes, path: Path) -> tuple[str, ...]:
    """Write a file in that way, read it back, return what dedup and compression make of it."""
    with path.open("wb") as file:
        for data in way(pool, FILE_POOLS * len(pool) // OBJECT_BYTES):
            file.write(data.data)
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=30, enable_ldm=True)
    long_window = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    measure, left = Measure(), 0
    with path.open("rb") as file:
        while part := file.read(64 * MIB):
            measure.add(np.frombuffer(part, np.uint8))
            left += len(long_window.compress(part))
    left += len(long_window.flush())
    path.unlink()
    found = measure.result()
    ratios = (found.dedup_4k_ratio, found.dedup_512_ratio, found.zstd1_ratio)
    lz4 = "-" if found.lz4_ratio is None else f"{found.lz4_ratio:.3f}"
    return (*(f"{ratio:.3f}" for ratio in ratios), lz4, f"{found.sampled_bytes / left:.2f}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--pool", type=parse_size, default=256 * MIB)
    parser.add_argument("--size", type=parse_size, default=2 * GIB, help="made per round")
    parser.add_argument("--folder", type=Path, default=None, help="for the files; else temporary")
    arguments = parser.parse_args()
    (pool, kind), (stamped, _) = (native.allocate(arguments.pool) for _ in range(2))
    Stream(RUN_ID).fill(pool.data)
    stamped[:] = pool
    rates: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(arguments.repeats):
        for name, way in WAYS.items():
            mine = stamped if way is arena else pool
            rates[name].append(cost_gb_per_s(way, mine, arguments.size))
    rows = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for name, way in WAYS.items():
            low, high = min(rates[name]), max(rates[name])
            rate = f"{statistics.median(rates[name]):.1f} ({low:.1f} … {high:.1f})"
            mine = stamped if way is arena else pool
            rows.append((name, rate, *landed(way, mine, Path(folder) / "file")))
    print(f"pool {size_name(len(pool))} on {kind} pages, files of {FILE_POOLS} × that; ", end="")
    print(f"objects of {size_name(OBJECT_BYTES)}; dgen-py on {default_threads()} threads")
    head = ("payload", "GB per CPU-s", "dedup 4K", "dedup 512", "zstd-1", "lz4", "zstd long")
    print_table(head, rows)


if __name__ == "__main__":
    main()
