"""A sample of what a run has written, read back from its targets after it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from kvtrace.units import MIB
from replay.ops.contract import Action
from replay.state.read_back import read_back

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from replay.ops.contract import Lane
    from replay.ops.done import Done

SAMPLE_BYTES = 256 * MIB


class WriteSampler:
    """Remembers where the latest writes of a run went, up to `limit_bytes` of them."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._places: deque[tuple[int, int, int, int]] = deque()
        self._bytes = 0

    def add(self, done: Done) -> None:
        """Take finished ops, in the trace's order."""
        if not self._limit_bytes:
            return
        wrote = done.select(done.good & (done.action == Action.WRITE))
        for place in zip(
            wrote.thread.tolist(), wrote.key.tolist(), wrote.offset_bytes.tolist(),
            wrote.run_bytes.tolist(), strict=True,
        ):  # fmt: skip
            self._places.append(place)
            self._bytes += place[3]
        while self._places and self._bytes > self._limit_bytes:
            self._bytes -= self._places.popleft()[3]

    def read(self, lanes: tuple[Lane, ...]) -> Iterator[NDArray[np.uint8]]:
        """Yield the bytes of the remembered writes, as they are now, in their order."""
        for thread, key, offset, length in self._places:
            stored = read_back(lanes[thread], key, offset, length)
            if len(stored):  # it may have been deleted since
                yield stored
