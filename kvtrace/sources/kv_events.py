"""KV-cache events of vLLM and SGLang: a recording of them, or JSONL of the published batches.

A recording is a folder or the files of `kvtrace capture kv-events`. What entered the GPU's cache:
each event of stored blocks is a request whose prompt is the chain of blocks that it ends. Source:
vllm-project/vllm, `vllm/distributed/kv_events.py` at 0181ea3; sgl-project/sglang,
`python/sglang/srt/disaggregation/kv_events.py` at 006d053; read on 2026-11-30.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.capture import spool
from kvtrace.capture.events import CLEARED, GPU, NAMES, REMOVED, STORED, text_of
from kvtrace.capture.spool import MAGIC, Frame, Kind, SpoolError
from kvtrace.errors import TraceError
from kvtrace.requests import jsonlines
from kvtrace.requests.lines import Lines
from kvtrace.requests.request import Ragged
from kvtrace.requests.rows import MAX_TIME_NS, MAX_TOKENS, U64_MAX, Piece, alone
from kvtrace.requests.sorting import Numbering, by_arrival
from kvtrace.requests.source import FILE_KEYS, FileSource, Told, need_input

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from kvtrace.sources import SourceContext

KEYS = FILE_KEYS
MAX_BLOCK_TOKENS = 1 << 20
UNSEEN = (
    "requests whose blocks were all cached stored nothing and aren't in the events; a step of a "
    "long prompt, and each block of an answer, is a request of its own"
)


def recognises(start: bytes) -> bool:
    """Return whether a file is a recording, or begins with a batch that has an event."""
    if start.startswith(MAGIC):
        return b'"engine":"kv-events"' in start
    line = start.partition(b"\n")[0].lstrip()
    kinds = [name.encode() for name in NAMES]
    return line.startswith((b"{", b"[")) and any(b'"%b"' % kind in line for kind in kinds)


@dataclass(frozen=True, slots=True)
class _Stored:
    """Blocks that entered the GPU's cache behind `parent`."""

    line: int
    time_ns: int
    hashes: list[int]
    parent: int | None


Number = tuple[str, int, int]
"""Publisher, number and time of a batch."""


@dataclass(slots=True)
class _Batch:
    """What a line tells; `removed` counts blocks, `others` names events of other kinds."""

    number: Number | None
    stored: list[_Stored] = field(default_factory=list)
    removed: int = 0
    others: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Parsed:
    """What some lines tell: 0 `block_tokens` where nothing was stored."""

    batches: list[_Batch] = field(default_factory=list)
    block_tokens: int = 0


def parse(piece: Lines) -> Parsed:
    """Return the events in `piece`. Raises TraceError that names the file and the line."""
    made = Parsed()
    for line, text in enumerate(piece.lines, start=piece.first):
        place = f"{piece.where}:{line}"
        value = jsonlines.decode(text, place)
        envelope = value if isinstance(value, dict) and "batch" in value else {}
        time_ns, events, rank = _batch(envelope.get("batch", value), place)
        batch = _Batch(None)
        if envelope.get("seq") is not None:
            seq = jsonlines.whole(envelope, "seq", place, most=U64_MAX >> 1)
            batch.number = (f"{envelope.get('topic')} {rank}", seq, time_ns)
        for number, event in enumerate(events, start=1):
            _add(made, batch, event, line, time_ns, f"{place}, event {number}")
        made.batches.append(batch)
    return made


def _batch(batch: Any, place: str) -> tuple[int, list[Any], Any]:
    """Return time, events and rank of a batch, which is an object, or a list of these."""
    if isinstance(batch, list) and len(batch) >= 2:
        batch = dict(zip(("ts", "events", "data_parallel_rank"), batch, strict=False))
    if not isinstance(batch, dict) or not isinstance(batch.get("events"), list):
        raise TraceError(
            "not a batch of events", where=place, got=repr(batch)[:40],
            accepted="[time, [event, ...]], or an object with ts and events",
        )  # fmt: skip
    return (
        jsonlines.seconds_ns(batch, "ts", place),
        batch["events"],
        batch.get("data_parallel_rank"),
    )


def read(inputs: Sequence[Path], workers: int) -> Iterator[tuple[Lines, Parsed]]:
    """Yield what each piece of the files tells, recordings frame by frame. Raises TraceError."""
    for path in inputs:
        if is_recording(path):
            yield from recorded(path)
        else:
            yield from jsonlines.parsed([path], parse, workers)


def is_recording(path: Path) -> bool:
    """Return whether a file is one of `kvtrace capture`."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def recorded(path: Path) -> Iterator[tuple[Lines, Parsed]]:
    """Yield what the frames of a recording tell; the lines are numbers of batches."""
    number = 1
    for frame in spool.frames(path):
        if not isinstance(frame, Frame) or frame.kind != Kind.EVENTS:
            continue
        made, first = Parsed(), number
        place = f"{path}: byte {frame.offset}"
        for text in _texts(frame, place):
            line = jsonlines.as_object(jsonlines.decode(text, place), place)
            made.batches.append(_recorded_batch(made, line, number, place))
            number += 1
        yield Lines(str(path), first, []), made


def _texts(frame: Frame, place: str) -> list[str]:
    try:
        return text_of(frame.payload).splitlines()
    except SpoolError as error:
        raise TraceError(str(error), where=place) from error


_RECORDED = {
    "type": "type",
    "medium": "medium",
    "group_idx": "group",
    "block_hashes": "blocks",
    "parent_block_hash": "parent",
    "block_size": "tokens",
}
"""Fields of events, as they are published and as a recording has them."""


def _recorded_batch(made: Parsed, line: dict[str, Any], number: int, place: str) -> _Batch:
    time_ns = jsonlines.whole(line, "ts_ns", place, most=MAX_TIME_NS)
    seq = jsonlines.whole(line, "seq", place, most=U64_MAX >> 1)
    batch = _Batch((f"{line.get('publisher')}", seq, time_ns))
    events = line.get("events")
    if not isinstance(events, list):
        raise TraceError("a batch without events", where=place, got=repr(events)[:40])
    for event in events:
        fields = jsonlines.as_object(event, place)
        kept = {published: fields.get(name) for published, name in _RECORDED.items()}
        _add(made, batch, kept, number, time_ns, place, tokens_known=False)
    return batch


def _add(
    made: Parsed, batch: _Batch, event: Any, line: int, time_ns: int, place: str, *,
    tokens_known: bool = True,
) -> None:  # fmt: skip
    """Add an event to its batch; one of a recording has no tokens."""
    fields = _fields(event, place)
    kind, medium, group = fields["type"], fields.get("medium"), fields.get("group_idx")
    if medium is not None:
        medium = jsonlines.text(fields, "medium", place)
    if group is not None:
        group = jsonlines.whole(fields, "group_idx", place)
    if kind == CLEARED:
        batch.others.append("AllBlocksCleared: their blocks stay known")
    elif medium not in (None, GPU):
        batch.others.append(f"{kind} of medium {medium[:20]}: not the GPU's")
    elif group:
        batch.others.append(f"{kind} of a further group of layers")
    elif kind == REMOVED:
        batch.removed += len(_hashes(fields, place))
    else:
        hashes = _hashes(fields, place)
        count = len(hashes) if tokens_known else None
        made.block_tokens = _size(fields, count, made.block_tokens, place)
        parent = fields.get("parent_block_hash")
        if parent is not None:
            parent = _identity(parent, place)
        batch.stored.append(_Stored(line, time_ns, hashes, parent))


def _fields(event: Any, place: str) -> dict[str, Any]:
    """Return an event's fields by name: an object, or a list that begins with the type."""
    if isinstance(event, list) and event and isinstance(event[0], str) and event[0] in NAMES:
        return {"type": event[0]} | dict(zip(NAMES[event[0]], event[1:], strict=False))
    kind = event.get("type") if isinstance(event, dict) else None
    if not isinstance(event, dict) or not isinstance(kind, str) or kind not in NAMES:
        got = repr(event if kind is None else kind)[:40]
        raise TraceError("not an event", where=place, got=got, accepted=", ".join(NAMES))
    return event


def _hashes(fields: dict[str, Any], place: str) -> list[int]:
    hashes = fields.get("block_hashes")
    if not isinstance(hashes, list) or not hashes:
        got = "nothing" if hashes is None else repr(hashes)[:40]
        raise TraceError("bad block_hashes", where=place, got=got, accepted="a list of hashes")
    return [_identity(value, place) for value in hashes]


def _identity(value: Any, place: str) -> int:
    """Return a hash of 64 bits, signed or not, as an int64."""
    if type(value) is not int or not -(1 << 63) <= value <= U64_MAX:
        accepted = "an integer of 64 bits"
        raise TraceError("bad block hash", where=place, got=repr(value)[:40], accepted=accepted)
    return value - (1 << 64) if value >= 1 << 63 else value


def _size(fields: dict[str, Any], count: int | None, first: int, place: str) -> int:
    """Return the tokens of a block: those of the `first` event, and those of `count` blocks."""
    size = jsonlines.whole(fields, "block_size", place, least=1, most=MAX_BLOCK_TOKENS)
    _same_size(first or size, size, place)
    if count is None:
        return size
    tokens = fields.get("token_ids")
    if not isinstance(tokens, list) or len(tokens) != size * count:
        raise TraceError(
            "bad token_ids", where=place,
            got=len(tokens) if isinstance(tokens, list) else repr(tokens)[:40],
            accepted=f"{size * count} of them, {size} a block",
        )  # fmt: skip
    return size


def _same_size(first: int, size: int, place: str) -> None:
    if size != first:
        raise TraceError("another block_size", where=place, got=size, accepted=first)


class _Chains:
    """The blocks that were stored, each behind its parent."""

    def __init__(self) -> None:
        self._parent: dict[int, int | None] = {}
        self._session: dict[int, int] = {}
        self._sessions = 0
        self.unknown = 0

    def follow(self, event: _Stored) -> tuple[list[int], int]:
        """Return the blocks of a prompt and its session: that of the parent, if it was its last.

        A parent that was never stored here is left out, with all before it.
        """
        parent = event.parent
        if parent is not None and parent not in self._parent:
            self.unknown += 1
            parent = None
        session = self._session.pop(parent, None) if parent is not None else None
        if session is None:
            session = self._sessions
            self._sessions += 1
        before, chain = parent, []
        for block in event.hashes:
            if block not in self._parent:
                self._parent[block] = before
            before = block
        while parent is not None:
            chain.append(parent)
            parent = self._parent[parent]
        self._session[event.hashes[-1]] = session
        return [*reversed(chain), *event.hashes], session


class _Reader:
    """Reads the events of all files."""

    def __init__(self, context: SourceContext, block_tokens: int, remarks: Told) -> None:
        self._context, self._size, self._remarks = context, block_tokens, remarks

    def pieces(self) -> Iterator[Piece]:
        """Yield the requests in order of time. Raises TraceError."""
        numbering = Numbering()
        for piece in by_arrival(self._in_files()):
            numbering.follow(piece.rows)
            piece.rows.last_turn[:] = False
            yield piece

    def _in_files(self) -> Iterator[Piece]:
        chains, others, removed, blocks = _Chains(), Counter[str](), 0, 0
        numbers, again = dict[Number, None](), 0
        for piece, made in read(self._context.inputs, self._context.workers):
            stored: list[_Stored] = []
            for batch in made.batches:
                if batch.number in numbers:
                    again += 1
                    continue
                if batch.number is not None:
                    numbers[batch.number] = None
                others.update(batch.others)
                removed += batch.removed
                stored += batch.stored
            if stored:
                _same_size(self._size, made.block_tokens, f"{piece.where}:{stored[0].line}")
                blocks += sum(len(event.hashes) for event in stored)
                yield self._piece(piece.where, stored, chains)
        self._remarks.notes[:] = [
            f"{blocks:,} blocks entered the GPU's cache and {removed:,} left it; what leaves here "
            "the simulated tiers decide",
            UNSEEN,
            *([f"{chains.unknown:,} events go on from a block that was stored before the first"]
              * bool(chains.unknown)),
            *(f"{count:,} events {kind}" for kind, count in sorted(others.items())),
            *_lost(numbers),
            *[f"{again:,} batches came again, with number and time: left out"] * bool(again),
        ]  # fmt: skip

    def _piece(self, where: str, stored: list[_Stored], chains: _Chains) -> Piece:
        lists, sessions = zip(*(chains.follow(event) for event in stored), strict=True)
        counts = np.array([len(each) for each in lists])
        tokens = counts * self._size
        if tokens.max() > MAX_TOKENS:
            line = stored[int(tokens.argmax())].line
            raise TraceError(
                "too long a chain of blocks", where=f"{where}:{line}", got=int(tokens.max()),
                accepted=f"{MAX_TOKENS:,} tokens",
            )  # fmt: skip
        ids = Ragged.from_counts(counts, np.concatenate([np.array(each) for each in lists]))
        time_ns = np.array([event.time_ns for event in stored], np.int64)
        rows = alone(0, time_ns, tokens, np.zeros(len(tokens), np.int64), ids)
        rows.session[:] = sessions
        return Piece(where, np.array([event.line for event in stored]), rows)


def _lost(batches: Iterable[Number]) -> list[str]:
    """Return a note if numbers of batches are missing between those of one publisher."""
    missing = 0
    numbers: dict[str, list[int]] = {}
    for publisher, number, _ in batches:
        numbers.setdefault(publisher, []).append(number)
    for each in numbers.values():
        missing += max(each) - min(each) + 1 - len(set(each))
    return [f"{missing:,} batches between those here are missing"] * bool(missing)


def create(context: SourceContext) -> FileSource:
    """Return the source: hashes are prefix-chained; an event that ends in a parent is its session.

    Raises UsageError without an input, TraceError where nothing was stored.
    """
    need_input(context, "FILE.jsonl, or the folder of a recording")
    first = next((made for _, made in read(context.inputs, 1) if made.block_tokens), None)
    if first is None:
        raise TraceError(
            "no requests", where=context.inputs[0], accepted=f"events {STORED} of medium {GPU}"
        )
    remarks = Told(
        parameters={"block_tokens": first.block_tokens}, invented=["no output tokens are known: 0"]
    )
    return FileSource(
        context,
        KEYS,
        _Reader(context, first.block_tokens, remarks).pieces,
        block_tokens=first.block_tokens,
        remarks=remarks,
        sessions_known=True,
    )
