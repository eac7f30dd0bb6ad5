"""A GPU made of NumPy: what a copier may find out about a real one, and its faults on request."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from replay import clock
from replay.payload.memory import at_address

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

GIB = 1 << 30
EPOCH_NS = 3_600_000_000_000
"""Its clock isn't the host's."""


@dataclass
class Event:
    """When something is over, and what must be moved by then."""

    at_ns: int
    target: NDArray[np.uint8]
    source: NDArray[np.uint8]


@dataclass
class FakeCuda:
    """Copies take `copy_ns` each, one after the other per direction; bytes move at their end.

    `faults`: the n-th copies that fail as they start. `late_faults`: those that fail later.
    """

    copy_ns: int = 20_000
    pins: bool = True
    memory_bytes: int = GIB
    faults: tuple[int, ...] = ()
    late_faults: tuple[int, ...] = ()
    now_ns: Callable[[], int] = clock.now_ns
    title: str = "cuda:0 (fake)"
    pinned: dict[int, int] = field(default_factory=dict)
    staged: int = 0
    copies: int = 0
    closed: bool = False
    pool: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))
    _busy_until_ns: dict[bool, int] = field(default_factory=lambda: {False: 0, True: 0})
    _broken: list[Event] = field(default_factory=list)

    def free_bytes(self) -> int:
        return self.memory_bytes

    def allocate(self, size_bytes: int) -> None:
        if size_bytes > self.memory_bytes:
            raise RuntimeError("CUDA out of memory.\nTried to allocate too much")
        self.pool = np.zeros(size_bytes, np.uint8)

    def host(self, address: int, size_bytes: int) -> NDArray[np.uint8]:
        return at_address(address, size_bytes)

    def pin(self, address: int, size_bytes: int) -> bool:
        assert address not in self.pinned, "registered twice"
        if self.pins:
            self.pinned[address] = size_bytes
        return self.pins

    def unpin(self, address: int) -> None:
        del self.pinned[address]

    def staging(self, size_bytes: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        self.staged += 1
        made = np.zeros(size_bytes, np.uint8)
        return made, made

    def copy_in(self, offset: int, host: NDArray[np.uint8], begin: int, length: int) -> Event:
        return self._copy(True, self.pool[offset : offset + length], host[begin : begin + length])

    def copy_out(self, offset: int, host: NDArray[np.uint8], begin: int, length: int) -> Event:
        return self._copy(False, host[begin : begin + length], self.pool[offset : offset + length])

    def _copy(self, inward: bool, target: NDArray[np.uint8], source: NDArray[np.uint8]) -> Event:
        assert len(target) == len(source) > 0
        number = self.copies
        self.copies += 1
        if number in self.faults:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        begin_ns = max(self._busy_until_ns[inward], self.now_ns() + EPOCH_NS)
        event = Event(begin_ns + self.copy_ns, target, source)
        self._busy_until_ns[inward] = event.at_ns
        if number in self.late_faults:
            self._broken.append(event)
        return event

    def done(self, event: Event) -> bool:
        if any(event is broken for broken in self._broken):
            raise RuntimeError("CUDA error: unspecified launch failure")
        over = self.now_ns() + EPOCH_NS >= event.at_ns
        if over:
            event.target[:] = event.source
        return over

    def instant(self) -> Event:
        nothing = np.zeros(0, np.uint8)
        return Event(self.now_ns() + EPOCH_NS, nothing, nothing)

    def elapsed_ns(self, begin: Event, end: Event) -> int:
        return end.at_ns - begin.at_ns

    def close(self) -> None:
        self.closed = True
