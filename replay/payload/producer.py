"""Seeded streams of unique bytes, and the process that fills a shared ring with one.

Run as a script by `replay.payload.fresh`, it imports nothing of this package, so that it starts at
once and its memory is its own.
"""

from __future__ import annotations

import mmap
import os
import resource
import sys
import threading

import dgen_py
import numpy as np

MIB = 1 << 20
FILLED, CONSUMED, CPU_NS = 0, 8, 16
"""Places in the control page, in u64; each has a cache line of its own."""
CONTROL_WORDS = 512
# `size` costs 8 bytes per MiB; far above any arena, far below the 2⁵⁵ that abort the process.
_EPOCH_BYTES = 1 << 38
_UNIQUE_BYTES = 4 * MIB
"""With a dedup ratio r, each r · 4 MiB of a stream hold 4 MiB of distinct blocks: dgen-py repeats
over the whole size it was told, which would put the copies too far apart to be met in one run."""


class Stream:
    """The endless stream of bytes that run id and ratios determine, whatever the pieces."""

    def __init__(
        self,
        run_id: int,
        dedup_ratio: int = 1,
        compress_ratio: int = 1,
        threads: int | None = None,
    ) -> None:
        self._run_id = run_id
        self._ratios = (float(dedup_ratio), float(compress_ratio))
        self._threads = threads
        self._epoch = 0
        self._bytes = _EPOCH_BYTES if dedup_ratio == 1 else dedup_ratio * _UNIQUE_BYTES
        self._generator = self._begin()

    def _begin(self) -> dgen_py.Generator:
        dedup, compress = self._ratios
        return dgen_py.Generator(
            size=self._bytes,
            dedup_ratio=dedup,
            compress_ratio=compress,
            max_threads=self._threads,
            seed=self._run_id + (self._epoch << 16),
        )

    def fill(self, buffer: memoryview) -> None:
        """Put the stream's next bytes into all of `buffer`."""
        done = 0
        while done < len(buffer):
            more: int = self._generator.fill_chunk(buffer[done:])
            if more == 0:
                self._epoch += 1
                self._generator = self._begin()
            done += more


def produce(
    arena: memoryview, control: np.ndarray, chunk_bytes: int, stream: Stream, wake: int
) -> None:
    """Keep the ring full until the other end of the pipe `wake` is closed."""
    filled = 0
    fence = threading.Lock()
    fence.acquire()
    while True:
        while filled + chunk_bytes > int(control[CONSUMED]) + len(arena):
            if not os.read(wake, 4096):
                return
        place = filled % len(arena)
        stream.fill(arena[place : place + chunk_bytes])
        filled += chunk_bytes
        # Publishes the bytes before the count, also on processors that reorder stores.
        fence.release()
        fence.acquire()
        control[FILLED] = filled
        used = resource.getrusage(resource.RUSAGE_SELF)
        control[CPU_NS] = int((used.ru_utime + used.ru_stime) * 1e9)


def _mapped(descriptor: int, size_bytes: int) -> mmap.mmap:
    mapping = mmap.mmap(descriptor, size_bytes)
    os.close(descriptor)
    return mapping


def main(words: list[str]) -> None:
    """Fill the ring whose descriptors, sizes and stream the command line names."""
    (
        arena_fd,
        control_fd,
        wake,
        arena_bytes,
        chunk_bytes,
        run_id,
        dedup,
        compress,
        threads,
    ) = (int(word) for word in words)
    arena = memoryview(_mapped(arena_fd, arena_bytes))
    control = np.frombuffer(_mapped(control_fd, CONTROL_WORDS * 8), np.uint64)
    produce(arena, control, chunk_bytes, Stream(run_id, dedup, compress, threads), wake)


if __name__ == "__main__":
    main(sys.argv[1:])
