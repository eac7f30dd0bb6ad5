"""Payload without repetition: a process of its own fills a shared ring ahead of the loop.

dgen-py needs the GIL to return from a call, so a thread beside a busy one would starve.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np

from kvtrace.errors import TargetError, UsageError
from kvtrace.units import MIB, MS_NS, format_bytes
from replay import clock
from replay.payload import producer, shared

CHUNK_BYTES = 8 * MIB
"""What is generated at a time: 1 MiB pieces cost dgen-py several times as much per byte."""
_LOOK_NS = MS_NS


def default_threads() -> int:
    """Return how many threads generate: those that the loop and its caller leave, 2 to 4.

    Told to use one, dgen-py 0.3 takes another way that costs 1.4 times the CPU time per byte.
    """
    return max(2, min(4, len(os.sched_getaffinity(0)) - 2))


class FreshPayload:
    """A ring of unique bytes. Virtual byte v of it is byte v of the run's stream, at v % size.

    `arena`: the ring, shared with the producer. `filled_bytes[0]`: everything below it was
    generated. In order: `start`, `wait_filled`, then `consumed` again and again, `close`; also a
    context manager that starts and closes. Not for several threads at once.
    """

    def __init__(
        self,
        arena_bytes: int,
        run_id: int,
        dedup_ratio: int = 1,
        compress_ratio: int = 1,
        chunk_bytes: int = CHUNK_BYTES,
        threads: int | None = None,
    ) -> None:
        if arena_bytes < chunk_bytes or arena_bytes % chunk_bytes:
            raise UsageError(
                "not a multiple of what is generated at a time",
                where="--arena",
                got=format_bytes(arena_bytes),
                accepted=f"multiples of {format_bytes(chunk_bytes)}",
            )
        self.chunk_bytes = chunk_bytes
        self._stream = (run_id, dedup_ratio, compress_ratio, threads or default_threads())
        self._ring = shared.allocate(arena_bytes)
        self._control = shared.allocate(producer.CONTROL_WORDS * 8)
        self.arena = self._ring.array
        self.page_kind = self._ring.page_kind
        words = self._control.array.view(np.uint64)
        self.filled_bytes = words[producer.FILLED : producer.FILLED + 1]
        self._consumed = words[producer.CONSUMED : producer.CONSUMED + 1]
        self._cpu_ns = words[producer.CPU_NS : producer.CPU_NS + 1]
        self._process: subprocess.Popen[bytes] | None = None
        self._wake = -1
        self._said = ""
        self._closed = False

    def start(self) -> None:
        """Start the producer; it fills the ring and waits for `consumed`."""
        assert self._process is None
        assert not self._closed
        # The producer ends when it reads the end of this pipe: on `close`, or when we die.
        reading, self._wake = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._wake, False)
        passed = (self._ring.descriptor, self._control.descriptor, reading)
        words = (*passed, len(self.arena), self.chunk_bytes, *self._stream)
        command = [sys.executable, "-P", str(Path(producer.__file__)), *map(str, words)]
        try:
            self._process = subprocess.Popen(
                command,
                pass_fds=passed,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                process_group=0,  # a Ctrl-C is for us: what is in flight is still waited for
            )
        finally:
            os.close(reading)

    def consumed(self, virtual_bytes: int) -> None:
        """Take note that nothing below is needed any more: its place may be filled again."""
        before = int(self._consumed[0])
        self._consumed[0] = virtual_bytes
        if virtual_bytes // self.chunk_bytes > before // self.chunk_bytes:
            # A full pipe has enough to wake it; a producer that has ended is `check`'s business.
            with suppress(BlockingIOError, BrokenPipeError):
                os.write(self._wake, b"\0")

    def wait_filled(self, virtual_bytes: int) -> None:
        """Return when everything below was generated. Raises TargetError if that can't be."""
        last = int(self._consumed[0]) + len(self.arena)
        assert virtual_bytes <= last, "more than the ring holds"
        while int(self.filled_bytes[0]) < virtual_bytes:
            self.check()
            clock.sleep_ns(_LOOK_NS)

    def check(self) -> None:
        """Return if the producer runs. Raises TargetError with what it said last."""
        assert self._process is not None
        code = self._process.poll()
        if code is None:
            return
        assert self._process.stderr is not None
        if not self._process.stderr.closed:
            self._said += self._process.stderr.read().decode(errors="replace")
        raise TargetError(
            "the process that generates payload has ended",
            where="--payload fresh",
            got=self._said.strip().rpartition("\n")[2] or f"exit code {code}",
            hint="use --payload arena",
        )

    @property
    def producer_cpu_ns(self) -> int:
        """CPU time that the producer has used, up to its latest chunk."""
        return int(self._cpu_ns[0])

    def close(self) -> None:
        """End the producer. May be called twice. The arena stays as long as it is looked at."""
        if self._closed:
            return
        self._closed = True
        if self._process is not None:
            os.close(self._wake)
            self._process.kill()
            self._process.wait()
            assert self._process.stderr is not None
            self._process.stderr.close()
        os.close(self._ring.descriptor)
        os.close(self._control.descriptor)

    def __enter__(self) -> FreshPayload:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
