"""A recording's files as the processes that wrote them: headers, ends, gaps, damage, counts."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kvtrace.capture import spool
from kvtrace.capture.spool import Damage, Frame, Kind
from kvtrace.errors import TraceError
from kvtrace.trace.schema import MAX_TIME_NS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

Count = Annotated[int, Field(ge=0, le=1 << 62)]
Moment = Annotated[int, Field(ge=0, le=MAX_TIME_NS)]


class _Document(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)


class Anchor(_Document):
    """A moment on both clocks; `width_ns`: how far apart their readings may be."""

    mono_ns: Moment
    wall_ns: Moment
    width_ns: Count

    @property
    def offset_ns(self) -> int:
        """What the wall clock is ahead of the monotonic one."""
        return self.wall_ns - self.mono_ns


class Head(_Document):
    """A file's header."""

    spool: int
    engine: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,32}$")]
    engine_version: Annotated[str, Field(max_length=64)]
    plugin_version: Annotated[str, Field(max_length=64)]
    process: Annotated[str, Field(max_length=64)]
    part: Annotated[int, Field(ge=0, le=1 << 31)]
    boot_id: str | None
    anchor: Anchor
    key_check: Annotated[int, Field(ge=0, le=0xFFFF)]
    secret_given: bool
    complete_is: dict[str, str] = {}
    not_visible: list[str] = []
    adapter: dict[str, Any] = {}


class Gap(_Document):
    """Rows that were dropped up to a moment."""

    dropped_rows: Count
    until_mono_ns: Moment
    reason: str = ""


class End(_Document):
    """Counts of a process up to the end of a file; `final`: of the last one."""

    rows: Count
    dropped_rows: Count
    bus_dropped: Count | None = None
    write_errors: Count = 0
    guarded_errors: dict[str, Count] = {}
    final: bool = False
    anchor: Anchor | None = None


EVENTS = "kv-events"
"""Engine of a recording of KV-cache events."""
Document = TypeVar("Document", Head, Gap, End, Anchor)


@dataclass(slots=True)
class Part:
    """One file, as long as it was when it was read first: its process may still be writing."""

    path: Path
    length: int = 0
    head: Head | None = None
    rows: int = 0
    tasks: int = 0
    events: int = 0
    ends: list[End] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    anchors: list[Anchor] = field(default_factory=list)
    damages: list[Damage] = field(default_factory=list)

    def records(self) -> Iterator[NDArray[np.void]]:
        """Yield the records of each frame. Raises TraceError for a frame that isn't records."""
        for frame in spool.frames(self.path, end=self.length):
            if isinstance(frame, Frame) and frame.kind == Kind.ROWS:
                yield records_of(self.path, frame)

    def event_frames(self) -> Iterator[Frame]:
        """Yield the frames of KV-cache events."""
        for frame in spool.frames(self.path, end=self.length):
            if isinstance(frame, Frame) and frame.kind == Kind.EVENTS:
                yield frame


@dataclass(slots=True)
class Process:
    """What one process of an engine recorded."""

    head: Head
    parts: list[Part]

    @property
    def end(self) -> End | None:
        """Counts of the whole process, None of one that was killed."""
        return next((end for end in self.parts[-1].ends[::-1] if end.final), None)

    @property
    def rows(self) -> int:
        """Rows in its files."""
        return sum(part.rows for part in self.parts)

    @property
    def events(self) -> int:
        """KV-cache events in its files."""
        return sum(part.events for part in self.parts)

    @property
    def tasks(self) -> int:
        """Numbers that its batches take."""
        return max(part.tasks for part in self.parts)

    @property
    def gaps(self) -> list[Gap]:
        """Its gaps in the order of its files."""
        return [gap for part in self.parts for gap in part.gaps]

    @property
    def dropped_rows(self) -> int:
        """Rows that the recorder dropped, as far as its files tell."""
        stated = [end.dropped_rows for part in self.parts for end in part.ends]
        return max([sum(gap.dropped_rows for gap in self.gaps), *stated])

    @property
    def lost_rows(self) -> int:
        """Rows that were written and aren't in the files any more; 0 where no end tells."""
        stated = [end.rows for part in self.parts for end in part.ends]
        return max(0, max(stated, default=0) - self.rows)

    @property
    def missing_parts(self) -> int:
        """Files between the first and the last that aren't there."""
        numbers = [part.head.part for part in self.parts if part.head is not None]
        return max(numbers) + 1 - len(set(numbers))

    @property
    def anchors(self) -> list[Anchor]:
        """All readings of both clocks."""
        heads = [part.head.anchor for part in self.parts if part.head is not None]
        ends = [end.anchor for part in self.parts for end in part.ends if end.anchor is not None]
        others = [anchor for part in self.parts for anchor in part.anchors]
        return sorted([*heads, *others, *ends], key=lambda anchor: anchor.mono_ns)


def read_part(path: Path) -> Part:
    """Return what a file holds. Raises TraceError for what isn't the format's."""
    part = Part(path)
    try:
        part.length = path.stat().st_size
        for frame in spool.frames(path, end=part.length):
            if isinstance(frame, Damage):
                part.damages.append(frame)
            else:
                _take(part, frame)
    except OSError as error:
        raise TraceError(f"can't read: {error.strerror}", where=path) from error
    return part


def _take(part: Part, frame: Frame) -> None:
    if frame.kind == Kind.HEADER:
        part.head = document_of(Head, part.path, frame)
        if part.head.spool != 1:
            raise TraceError(
                "unknown version of a recording", where=part.path, got=part.head.spool, accepted=1,
                hint=f"update kvtrace, to {part.head.plugin_version} or newer",
            )  # fmt: skip
    elif frame.kind == Kind.ROWS:
        part.rows += frame.rows
        if frame.rows:
            part.tasks = int(records_of(part.path, frame)["batch"].max()) + 1
    elif frame.kind == Kind.EVENTS:
        part.events += frame.rows
    elif frame.kind == Kind.GAP:
        part.gaps.append(document_of(Gap, part.path, frame))
    elif frame.kind == Kind.ANCHOR:
        part.anchors.append(document_of(Anchor, part.path, frame))
    elif frame.kind == Kind.END:
        part.ends.append(document_of(End, part.path, frame))
    else:
        raise TraceError(
            "unknown kind of frame", where=_place(part.path, frame), got=frame.kind,
            accepted=f"{min(Kind)} to {max(Kind)}", hint="update kvtrace",
        )  # fmt: skip


def document_of(kind: type[Document], path: Path, frame: Frame) -> Document:
    """Return a frame's document. Raises TraceError for what isn't one of its kind."""
    try:
        return kind.model_validate_json(frame.payload)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(each) for each in first["loc"])
        raise TraceError(
            f"bad {kind.__name__.lower()} of a recording at {name or 'its start'}: {first['msg']}",
            where=_place(path, frame),
        ) from error


def records_of(path: Path, frame: Frame) -> NDArray[np.void]:
    """Return a frame's records. Raises TraceError for what isn't as many as it says."""
    try:
        return spool.records(frame)
    except spool.SpoolError as error:
        raise TraceError(str(error), where=_place(path, frame)) from error


def _place(path: Path, frame: Frame) -> str:
    return f"{path}: byte {frame.offset}"


def processes_of(paths: Sequence[Path]) -> tuple[list[Process], list[Part]]:
    """Return the processes in order of their first file's start, and files without a header.

    Raises TraceError for files that can't be of one recording.
    """
    grouped: dict[str, list[Part]] = defaultdict(list)
    headless = []
    for path in paths:
        part = read_part(path)
        if part.head is None:
            headless.append(part)
        else:
            grouped[part.head.process].append(part)
    processes = []
    for parts in grouped.values():
        parts.sort(key=_number)
        assert parts[0].head is not None
        processes.append(Process(parts[0].head, parts))
        for before, part in pairwise(parts):
            if _number(before) == _number(part):
                raise TraceError(
                    "the same part of a process twice", where=part.path, got=before.path.name,
                    accepted="each file once",
                )  # fmt: skip
    processes.sort(key=lambda process: process.head.anchor.mono_ns)
    _check_together(processes)
    return processes, headless


def _number(part: Part) -> int:
    assert part.head is not None
    return part.head.part


def _check_together(processes: list[Process]) -> None:
    """Raise TraceError unless all processes have one engine and one clock.

    Events of the GPU's cache are of the engine that they lie beside.
    """
    engines = [process for process in processes if process.head.engine != EVENTS]
    for name, why, those in (
        ("engine", "one engine's processes make a trace", engines),
        ("boot_id", "the times of two boots, or hosts, can't be compared", processes),
    ):
        for process in those[1:]:
            got, first = (str(getattr(each.head, name)) for each in (process, those[0]))
            if got != first:
                raise TraceError(
                    f"another {name} than the files before: {why}",
                    where=process.parts[0].path, got=got, accepted=first,
                    hint="import each by itself, then `kvtrace merge --shared-keys`",
                )  # fmt: skip
