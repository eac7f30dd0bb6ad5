"""The eviction policies in plain Python, from their papers: lists, searched from end to end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class Fifo:
    """First in, first out. `blocks`: oldest first."""

    def __init__(self, capacity: int, size: Callable[[Any], int]) -> None:
        self.queue: list[Any] = []

    def blocks(self) -> list[Any]:
        return self.queue

    def expect(self, block: Any) -> None:
        pass

    def insert(self, block: Any) -> None:
        self.queue.append(block)

    def touch(self, block: Any) -> None:
        pass

    def victim(self) -> Any:
        return self.queue[0]

    def evict(self, block: Any) -> None:
        self.queue.remove(block)


class Lru(Fifo):
    """Least recently used."""

    def touch(self, block: Any) -> None:
        self.queue.remove(block)
        self.queue.append(block)


class Sieve(Fifo):
    """A hand that passes, and forgives, what was asked for."""

    def __init__(self, capacity: int, size: Callable[[Any], int]) -> None:
        super().__init__(capacity, size)
        self.asked: set[Any] = set()
        self.hand: Any = None

    def insert(self, block: Any) -> None:
        self.asked.discard(block)
        super().insert(block)

    def touch(self, block: Any) -> None:
        self.asked.add(block)

    def victim(self) -> Any:
        at = 0 if self.hand is None else self.queue.index(self.hand)
        while self.queue[at] in self.asked:
            self.asked.remove(self.queue[at])
            at = (at + 1) % len(self.queue)
        self.hand = self.queue[at]
        return self.hand

    def evict(self, block: Any) -> None:
        at = self.queue.index(block)
        if self.hand == block:
            self.hand = self.queue[at + 1] if at + 1 < len(self.queue) else None
        self.queue.remove(block)


class S3Fifo:
    """A small queue, a main queue and a ghost."""

    def __init__(self, capacity: int, size: Callable[[Any], int]) -> None:
        self.size = size
        self.small: list[Any] = []
        self.main: list[Any] = []
        self.ghost: list[Any] = []
        self.asked: dict[Any, int] = {}
        self.returning: set[Any] = set()
        self.small_bytes = int(capacity * 0.1)
        self.main_bytes = capacity - self.small_bytes
        self.ghost_bytes = int(capacity * 0.9)
        self.has_evicted = False

    def total(self, queue: list[Any]) -> int:
        return sum(self.size(block) for block in queue)

    def blocks(self) -> list[Any]:
        return self.small + self.main

    def expect(self, block: Any) -> None:
        if block in self.ghost:
            self.ghost.remove(block)
            self.returning.add(block)

    def insert(self, block: Any) -> None:
        full = not self.has_evicted and self.total(self.small) >= self.small_bytes
        queue = self.main if block in self.returning or full else self.small
        self.returning.discard(block)
        self.asked[block] = 0
        queue.append(block)

    def touch(self, block: Any) -> None:
        self.asked[block] = min(3, self.asked[block] + 1)

    def victim(self) -> Any:
        self.has_evicted = True
        if self.total(self.main) <= self.main_bytes:
            while self.small:
                if self.asked[self.small[0]] < 2:
                    return self.small[0]
                self.main.append(self.small.pop(0))
                self.asked[self.main[-1]] = 0
        while self.asked[self.main[0]]:
            self.main.append(self.main.pop(0))
            self.asked[self.main[-1]] -= 1
        return self.main[0]

    def evict(self, block: Any) -> None:
        if block in self.main:
            self.main.remove(block)
            return
        self.small.remove(block)
        self.ghost.append(block)
        while self.total(self.ghost) > self.ghost_bytes:
            self.ghost.pop(0)


POLICIES = {"lru": Lru, "fifo": Fifo, "sieve": Sieve, "s3-fifo": S3Fifo}
