"""A naive model of placement and of the plan: plain Python, one rule after the other.

It shares no code with the planner and is written to be read, not to be fast. Sizes are bytes. A set
of rows is an integer, of which bit i stands for row i: sets are joined often.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kvtrace.placement.ground import MIXED, UNBOUNDED
from kvtrace.trace.schema import Op, Phase

ALIGN = 4096
LOOKS = 8
"""Holes of the wanted length's own class that are looked at."""
Extent = tuple[int, int]
"""(begin, length)"""
Home = tuple[int, int]
"""(tier, key)"""
TRANSFERS = (Phase.EVICT, Phase.PROMOTE)


@dataclass(frozen=True)
class Step:
    """A row of a trace."""

    op: Op
    tier: int
    key: int
    phase: Phase
    offset: int
    size: int

    @property
    def home(self) -> Home:
        """Whose object the row is about."""
        return self.tier, self.key

    @property
    def low(self) -> int:
        """The first byte of the blocks that it moves."""
        return self.offset // ALIGN * ALIGN

    @property
    def high(self) -> int:
        """The end of these blocks."""
        return aligned(self.offset + self.size)


def aligned(size: int) -> int:
    """Return a size in whole blocks."""
    return -(-size // ALIGN) * ALIGN


def class_of(length: int) -> int:
    """Return a length without all but its five highest bits: holes of one class lie together."""
    rest = max(0, length.bit_length() - 5)
    return length >> rest << rest


@dataclass
class Hole:
    """Free bytes; `age` grows: the hole that changed longest ago has the lowest."""

    begin: int
    length: int
    age: int


@dataclass
class Lane:
    """The space of a tier, which is used from `top` on. Its parts are as in `ground.LANE`."""

    kind: int
    top: int
    limit: int
    cap: int
    part: int
    holes: list[Hole] = field(default_factory=list)
    queue: list[Extent] = field(default_factory=list)
    """Freed extents of a lane whose objects have one length."""
    changes: int = 0

    def free(self, begin: int, length: int) -> Hole:
        """Make bytes a hole, with those beside them."""
        end = begin + length
        beside = [h for h in self.holes if h.begin == end or h.begin + h.length == begin]
        self.holes = [hole for hole in self.holes if hole not in beside]
        self.changes += 1
        first = min([begin, *(hole.begin for hole in beside)])
        made = Hole(first, length + sum(hole.length for hole in beside), self.changes)
        self.holes.append(made)
        return made

    def take(self, hole: Hole, length: int) -> Extent:
        """Use the first bytes of a hole."""
        self.holes.remove(hole)
        taken = min(length, hole.length)
        if taken < hole.length:
            self.free(hole.begin + taken, hole.length - taken)
        return hole.begin, taken

    def fitting(self, length: int) -> Hole | None:
        """Return the hole for a length: one of its own class, else of the next one there is."""
        by_age = sorted(self.holes, key=lambda hole: hole.age)
        own = [hole for hole in by_age if class_of(hole.length) == class_of(length)]
        for hole in own[:LOOKS]:
            if hole.length >= length:
                return hole
        larger = [hole for hole in by_age if class_of(hole.length) > class_of(length)]
        return min(larger, key=lambda hole: class_of(hole.length), default=None)

    def largest(self) -> Hole | None:
        """Return the hole of the largest class that changed longest ago."""
        by_age = sorted(self.holes, key=lambda hole: hole.age)
        return max(by_age, key=lambda hole: class_of(hole.length), default=None)

    def extended(self, length: int, end: int | None) -> Hole | None:
        """Add never-used space, up to `end`, to the hole below it; return that if it is enough."""
        last = next((h for h in self.holes if h.begin + h.length == self.top), None)
        if last is None or last.length < length:
            more = length - (last.length if last else 0)
            more = more if end is None else min(more, end - self.top)
            last = self.free(self.top, more)
            self.top += more
        return last if last.length >= length else None

    def piece(self, length: int) -> Extent:
        """Return an extent for as many of the bytes as go into one."""
        if self.top + length <= self.limit:
            self.top += length
            return self.top - length, length
        hole = self.fitting(length)
        while hole is None:
            largest = self.largest()
            if self.top < self.limit:
                hole = self.extended(length, self.limit)
            elif length > self.part and largest and largest.length >= self.part:
                return self.take(largest, min(length, largest.length // self.part * self.part))
            elif self.top < self.cap:
                hole = self.extended(length, self.cap)
            elif largest:
                return self.take(largest, length)
            else:
                hole = self.extended(length, None)
        return self.take(hole, length)

    def place(self, length: int) -> list[Extent]:
        """Return the extents of a new object."""
        if self.kind == MIXED:
            extents: list[Extent] = []
            while length > 0:
                extents.append(self.piece(length))
                length -= extents[-1][1]
            return extents
        if self.kind == UNBOUNDED or self.top + length <= self.limit:
            self.top += length
            return [(self.top - length, length)]
        return [self.queue.pop(0)]

    def leave(self, extents: list[Extent]) -> None:
        """Free an object's extents."""
        for begin, length in extents:
            if self.kind == MIXED:
                self.free(begin, length)
            elif self.kind != UNBOUNDED:
                self.queue.append((begin, length))


@dataclass
class Life:
    """An object from its birth to its end; `birth`: its row, -1 where it was there before."""

    home: Home
    birth: int
    length: int = 0
    row: int = 0
    extents: list[Extent] = field(default_factory=list)


def lives_of(steps: list[Step], tiers: tuple[int, ...]) -> tuple[list[Life], list[Life | None]]:
    """Return the lives that began before the first row, and the one that each row is about."""
    live: dict[Home, Life] = {}
    ended: set[Home] = set()
    originals: list[Life] = []
    lives: list[Life | None] = []
    for row, step in enumerate(steps):
        lives.append(None)
        if step.tier not in tiers or step.op == Op.LOOKUP:
            continue
        if step.home not in live:
            if step.op == Op.WRITE:
                live[step.home] = Life(step.home, row)
            elif step.home not in ended:
                live[step.home] = Life(step.home, -1)
                originals.append(live[step.home])
            else:
                assert step.op == Op.DELETE  # for the second time
                continue
        life = lives[row] = live[step.home]
        life.length = max(life.length, aligned(step.offset + step.size))
        if step.op == Op.DELETE:
            ended.add(step.home)
            del live[step.home]
    return originals, lives


def peak_of(originals: list[Life], lives: list[Life | None], steps: list[Step], tier: int) -> int:
    """Return the most bytes that a tier holds at once."""
    held = most = sum(life.length for life in originals if life.home[0] == tier)
    for row, (step, life) in enumerate(zip(steps, lives, strict=True)):
        if life and step.tier == tier:
            held += life.length * ((life.birth == row) - (step.op == Op.DELETE))
            most = max(most, held)
    return most


def place_all(
    originals: list[Life], lives: list[Life | None], steps: list[Step], lanes: dict[int, Lane]
) -> None:
    """Give all lives their extents, in the order of the trace."""
    for life in originals:
        life.extents = lanes[life.home[0]].place(life.length) if life.length else []
    for row, (step, life) in enumerate(zip(steps, lives, strict=True)):
        if life is None:
            continue
        if life.birth == row and life.length:
            life.extents = lanes[step.tier].place(life.length)
        if step.op == Op.DELETE:
            lanes[step.tier].leave(life.extents)


def clipped(extents: list[Extent], low: int, high: int) -> list[Extent]:
    """Return where the bytes [low, high) of an object are."""
    parts: list[Extent] = []
    first = 0
    for begin, length in extents:
        start, end = max(low, first), min(high, first + length)
        if start < end:
            parts.append((begin + start - first, end - start))
        first += length
    return parts


class Order:
    """What each row waits for, directly or not."""

    def __init__(self) -> None:
        self._all: dict[Home, int] = {}
        self._alone: dict[Home, int] = {}
        self._transfers: dict[int, int] = {}
        self._evicts: dict[Home, tuple[int, int]] = {}
        self._blocks: dict[tuple[int, int], int] = {}

    def waits(self, row: int, step: Step, life: Life | None) -> int:
        """Return all rows that the next one waits for; `life`: None where it isn't executed."""
        if step.op == Op.LOOKUP:
            return 0
        alone = step.op != Op.READ
        waits = (self._all if alone else self._alone).get(step.home, 0)
        blocks = [
            (step.tier, at // ALIGN)
            for begin, length in (life.extents if life else ())
            for at in range(begin, begin + length, ALIGN)
        ]
        if step.op == Op.WRITE:
            waits |= self._transfers.get(step.key, 0)
            for block in blocks:
                waits |= self._blocks.get(block, 0)
        if step.op == Op.DELETE:
            below = [
                self._evicts.get((tier, step.key), (-1, 0)) for tier in range(step.tier + 1, 4)
            ]
            waits |= max(below, default=(-1, 0))[1]
        self._note(row, step, waits | 1 << row, blocks)
        return waits

    def _note(self, row: int, step: Step, done: int, blocks: list[tuple[int, int]]) -> None:
        self._all[step.home] = self._all.get(step.home, 0) | done
        if step.op != Op.READ:
            self._alone[step.home] = self._alone.get(step.home, 0) | done
        if step.op == Op.READ and step.phase in TRANSFERS:
            self._transfers[step.key] = done
        if step.op == Op.WRITE and step.phase == Phase.EVICT:
            self._evicts[step.home] = (row, done)
        for block in blocks:
            self._blocks[block] = self._blocks.get(block, 0) | done
