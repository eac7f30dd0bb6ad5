"""KV-cache events of a recording: rows of the GPU's cache, and batches as their source reads them.

A block that was stored in the GPU's cache is a write, one that was removed a delete; a clearing
deletes all that are known. Events of the CPU's and of storage's tiers are counted: the adapters'
rows tell them with times, sizes and requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from errno import EEXIST
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kvtrace.capture import events as recorded
from kvtrace.capture.events import CLEARED, GPU, REMOVED, STORED
from kvtrace.capture.spool import Frame, SpoolError
from kvtrace.errors import TraceError, UsageError
from kvtrace.formats.capture.rows import InOrder
from kvtrace.hierarchy.native import STORE
from kvtrace.models import load_model
from kvtrace.trace.schema import MAX_SIZE_BYTES, MAX_TIME_NS, Op, Phase, Tier

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator
    from pathlib import Path

    from kvtrace.formats.capture.recording import Part, Process
    from kvtrace.trace.reader import Columns

Hash = Annotated[int, Field(ge=0, lt=1 << 63)]
Small = Annotated[int, Field(ge=0, lt=1 << 31)]
OTHERS = "blocks in events of other tiers: counted, no rows"
UNSIZED = "blocks in events of further groups of layers left out: --model doesn't size them"
NO_SIZES = "blocks of the GPU's cache left out: give --model or --block-size to size them"
TWICE = "removals of a block that the GPU's cache still had elsewhere left out"
_GOLDEN = 0x9E3779B97F4A7C15


class _Document(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Event(_Document):
    """One event; `tokens` per block."""

    type: Literal["BlockStored", "BlockRemoved", "AllBlocksCleared"]
    blocks: list[Hash] = []
    medium: str | None = None
    group: Small = 0
    parent: Hash | None = None
    tokens: Small = 0

    @property
    def on_gpu(self) -> bool:
        """Whether it is of the GPU's cache."""
        return self.type == CLEARED or self.medium in (None, GPU)


class Line(_Document):
    """One batch: `ts_ns` by the engine's wall clock, `at_ns` on CLOCK_MONOTONIC."""

    publisher: Hash
    seq: Annotated[int, Field(ge=0, lt=1 << 63)]
    ts_ns: Annotated[int, Field(ge=0, le=MAX_TIME_NS)]
    at_ns: Annotated[int, Field(ge=0, le=MAX_TIME_NS)]
    rank: Small | None = None
    events: list[Event]


def lines_of(path: Path, frame: Frame) -> Iterator[Line]:
    """Yield the batches of a frame. Raises TraceError for what no recorder writes."""
    place = f"{path}: byte {frame.offset}"
    try:
        for text in recorded.text_of(frame.payload).splitlines():
            yield Line.model_validate_json(text)
    except SpoolError as error:
        raise TraceError(str(error), where=place) from error
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(each) for each in first["loc"])
        raise TraceError(
            f"bad batch of events at {name or 'its start'}: {first['msg']}", where=place
        ) from error


def lines_in(part: Part) -> Iterator[Line]:
    """Yield the batches of a file. Raises TraceError."""
    for frame in part.event_frames():
        yield from lines_of(part.path, frame)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of a block: `block_bytes`, or `token_bytes` per token; one of them is 0."""

    block_bytes: int = 0
    token_bytes: int = 0

    def of(self, event: Event) -> int:
        """Return the bytes of each block of an event, 0 if they aren't known."""
        if self.block_bytes:
            return self.block_bytes
        return 0 if event.group else self.token_bytes * event.tokens


def sizes_of(model: str | None, dtype: str | None, block_bytes: int | None) -> Sizes | None:
    """Return the sizes that a user gives, None for none. Raises UsageError."""
    if block_bytes is not None:
        if model is not None or dtype is not None:
            raise UsageError("excludes --model and --dtype", where="--block-size")
        if not 0 < block_bytes <= MAX_SIZE_BYTES:
            raise UsageError(
                "no size of a block", where="--block-size", got=block_bytes,
                accepted=f"1 to {MAX_SIZE_BYTES:,} bytes",
            )  # fmt: skip
        return Sizes(block_bytes=block_bytes)
    if model is None:
        if dtype is not None:
            raise UsageError("needs --model", where="--dtype")
        return None
    token_bytes = int(load_model(model).rank_bytes_per_token(1, dtype))
    if token_bytes <= 0:
        raise UsageError("keeps no bytes per token", where="--model", got=model)
    return Sizes(token_bytes=token_bytes)


def gpu_blocks(process: Process) -> int:
    """Return how many blocks of the GPU's cache a process's events store. Raises TraceError."""
    return sum(
        len(event.blocks)
        for part in process.parts for line in lines_in(part) for event in line.events
        if event.type == STORED and event.on_gpu
    )  # fmt: skip


class GpuRows(InOrder):
    """A process's rows of the GPU's cache; each event is a batch."""

    def __init__(self, process: Process, first_batch: int, sizes: Sizes) -> None:
        self._sizes, self._offset_ns = sizes, process.anchors[0].offset_ns
        super().__init__(process, first_batch)

    def _read(self) -> Iterator[Columns]:
        cache = _Cache(self._sizes, self.unclear)
        number = self._first_batch
        for part in self._process.parts:
            for frame in part.event_frames():
                rows = _Rows()
                for line in lines_of(part.path, frame):
                    time_ns = self._monotonic(line.ts_ns, part.path)
                    for event in line.events:
                        cache.take(event, line.rank or 0, time_ns, number, rows)
                        number += 1
                if rows.key:
                    yield rows.columns()

    def _monotonic(self, wall_ns: int, path: Path) -> int:
        """Return a time by the engine's wall clock as one of CLOCK_MONOTONIC. Raises TraceError."""
        time_ns = wall_ns - self._offset_ns
        if not 0 <= time_ns <= MAX_TIME_NS:
            raise TraceError(
                "an event's time is none since this host's start", where=path, got=time_ns,
                accepted=f"0 to {MAX_TIME_NS} ns",
                hint="set the clock of the engine's host, or record on that host",
            )  # fmt: skip
        return time_ns


class _Rows:
    """Rows that grow, as lists."""

    def __init__(self) -> None:
        self.time: list[int] = []
        self.op: list[int] = []
        self.key: list[int] = []
        self.block: list[int] = []
        self.size: list[int] = []
        self.error: list[int] = []
        self.batch: list[int] = []
        self.position: list[int] = []

    def add(self, time_ns: int, op: Op, key: int, block: int, size: int, error: int) -> None:
        for values, value in (
            (self.time, time_ns), (self.op, op), (self.key, key), (self.block, block),
            (self.size, size), (self.error, error),
        ):  # fmt: skip
            values.append(value)

    def number(self, batch: int) -> None:
        """Give the rows that an event made its number."""
        count = len(self.key) - len(self.batch)
        self.batch += [batch] * count
        self.position += range(count)

    def columns(self) -> Columns:
        op = np.array(self.op, np.uint8)
        times, count = np.array(self.time, np.int64), len(op)
        return {
            "timestamp": times,
            "op": op,
            "size": np.array(self.size, np.uint64),
            "tier": np.full(count, Tier.GPU, np.uint8),
            "key": np.array(self.key, np.uint64),
            "phase": np.where(op == Op.WRITE, Phase.PREFILL, Phase.EVICT).astype(np.uint8),
            "request": _unknown(count, np.uint64),
            "step": np.ma.masked_array(np.full(count, STORE, np.uint16), op == Op.DELETE),
            "rank": _unknown(count, np.uint16),
            "block": np.ma.masked_array(np.array(self.block, np.uint64)),
            "submit": times.copy(),
            "complete": _unknown(count, np.int64),
            "error": np.array(self.error, np.int32),
            "batch": (np.array(self.batch, np.int64) & 0xFFFFFFFF).astype(np.uint32),
            "position": (np.array(self.position) & 0xFFFF).astype(np.uint16),
        }


def _unknown(count: int, dtype: type[np.generic]) -> np.ma.MaskedArray:
    return np.ma.masked_array(np.zeros(count, dtype), np.ones(count, np.bool_))


class _Cache:
    """The GPU's caches as their events tell: a block may be in one several times."""

    def __init__(self, sizes: Sizes, unclear: Counter[str]) -> None:
        self._sizes, self._unclear = sizes, unclear
        self._held: dict[int, dict[int, tuple[int, int, int]]] = {}

    def take(self, event: Event, rank: int, time_ns: int, batch: int, rows: _Rows) -> None:
        """Add the rows of an event."""
        held = self._held.setdefault(rank, {})
        if not event.on_gpu:
            self._unclear[OTHERS] += len(event.blocks)
        elif event.type == CLEARED:
            for key, (block, size, _) in held.items():
                rows.add(time_ns, Op.DELETE, key, block, size, 0)
            held.clear()
        elif event.type == REMOVED:
            for block in event.blocks:
                self._remove(held, block, rank, event.group, time_ns, rows)
        else:
            self._store(held, event, rank, time_ns, rows)
        rows.number(batch)

    def _store(
        self, held: dict[int, tuple[int, int, int]], event: Event, rank: int, time_ns: int,
        rows: _Rows,
    ) -> None:  # fmt: skip
        size = self._sizes.of(event)
        if not size:
            self._unclear[UNSIZED] += len(event.blocks)
            return
        for block in event.blocks:
            key = key_of(block, rank, event.group)
            _, _, copies = held.get(key, (block, size, 0))
            held[key] = block, size, copies + 1
            rows.add(time_ns, Op.WRITE, key, block, size, EEXIST if copies else 0)

    def _remove(
        self, held: dict[int, tuple[int, int, int]], block: int, rank: int, group: int,
        time_ns: int, rows: _Rows,
    ) -> None:  # fmt: skip
        key = key_of(block, rank, group)
        _, size, copies = held.pop(key, (block, 0, 0))
        if copies > 1:
            held[key] = block, size, copies - 1
            self._unclear[TWICE] += 1
        else:
            rows.add(time_ns, Op.DELETE, key, block, size, 0)


def key_of(block: int, rank: int, group: int) -> int:
    """Return the key of a block in the cache of a data-parallel rank, of a group of layers."""
    other = (rank << 32 | group) * _GOLDEN & (1 << 63) - 1
    return block ^ (other ^ other >> 29)
