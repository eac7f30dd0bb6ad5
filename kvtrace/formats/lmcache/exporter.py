"""LMCache's .lct recordings, for `lmcache trace replay`: look-ups, loads and stores."""

from __future__ import annotations

import importlib
from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.errors import TraceError, UsageError
from kvtrace.files.outfile import OutFile
from kvtrace.formats.common.exporting import Exported, ExportOptions
from kvtrace.formats.common.order import joined_columns
from kvtrace.formats.common.requests import LastRows
from kvtrace.formats.common.rows import filled
from kvtrace.formats.lmcache import lct
from kvtrace.trace.outcomes import done_batches
from kvtrace.trace.schema import Op, Phase
from kvtrace.units import S_NS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from kvtrace.trace.reader import Columns, Trace

OPTIONS = ("tiers",)
NEEDS = lct.NEEDS
LOSES = (
    "tiers: a block that a request loads or stores is one call, wherever it was",
    "demotions, promotions, deletions and look-up rows: LMCache decides on its own",
    "session, block, qos, offset, due, submit, complete and error",
    "the order of steps of a request beyond: look-up, load, store",
    "the header",
)
_LOAD, _STORE = range(2)
_PROMPT_STEPS = 2
_COLUMNS = ("timestamp", "op", "size", "tier", "key", "phase", "request", "step")


def export(trace: Trace, out: Path, options: ExportOptions) -> Exported:
    """Write the calls that a trace's requests would have made of LMCache's storage manager."""
    try:
        importlib.import_module(NEEDS)
    except ImportError as error:
        raise UsageError(f"needs the package {NEEDS}", where="format lmcache",
                         hint="pip install 'kvtrace[lmcache]'") from error  # fmt: skip
    if missing := [name for name in ("request", "step") if name not in trace.columns]:
        raise TraceError("has no requests", where=trace.path,
                         accepted=f"a trace with the column {missing[0]}")  # fmt: skip
    model = (trace.header.model or {}).get("name") or "kvtrace"
    calls = lct.Calls(str(model).replace("@", "-"), trace.header.tensor_parallel or 1)
    script = _Script(trace, calls, _Groups(trace, options))
    epoch_s = (trace.header.epoch_ns or 0) / S_NS
    with OutFile(out, force=options.force) as file:
        file.write(calls.header(epoch_s))
        for frames in script.frames(epoch_s):
            file.write(frames)
        if script.rows == 0:
            raise UsageError("no load or store of a request in this trace", where=trace.path)
    return Exported(script.rows, trace.rows - script.rows, LOSES)


@dataclass(slots=True)
class _Group:
    """What a request loads or stores at one time: each object once."""

    request: int
    kind: int
    time_ns: int
    key: NDArray[np.uint64]
    size: NDArray[np.int64]
    rank: NDArray[np.int64]
    last_row: int


class _Groups:
    """Reads a trace as groups; a first pass learns which row is the last of a request's prompt."""

    def __init__(self, trace: Trace, options: ExportOptions) -> None:
        self._trace, self._tiers = trace, [int(tier) for tier in options.tiers]
        self._prompts = LastRows()
        for first, rows in self._rows():
            prompt = np.flatnonzero(rows["step"] <= _PROMPT_STEPS)
            self._prompts.note(rows["request"][prompt], first + prompt)

    def _rows(self) -> Iterator[tuple[int, Columns]]:
        """Yield the rows that serve requests, with the number of those before them."""
        names = [*_COLUMNS, *(name for name in ("rank",) if name in self._trace.columns)]
        first = 0
        for columns in done_batches(self._trace, names, nulls=True):
            op, phase = columns["op"], columns["phase"]
            kept = ((op == Op.READ) & (phase == Phase.DECODE)) | (
                (op == Op.WRITE) & (phase <= Phase.DECODE)
            )
            kept &= ~np.ma.getmaskarray(columns["request"])
            if self._tiers:
                kept &= np.isin(columns["tier"], self._tiers)
            rows = {name: np.ma.filled(values[kept], 0) for name, values in columns.items()}
            yield first, rows
            first += len(rows["op"])

    def prompt_ends(self, request: int) -> int:
        """Return the last row of a request's prompt."""
        return self._prompts.of(request)

    def __iter__(self) -> Iterator[_Group]:
        waiting: tuple[int, Columns] | None = None
        for first, rows in self._rows():
            if waiting is not None:
                first, rows = waiting[0], joined_columns(waiting[1], rows)
            begins = _begins(rows)
            for begin, end in pairwise(begins):
                yield _group(rows, begin, end, first)
            tail = begins[-1] if len(begins) else 0
            waiting = (first + tail, {name: values[tail:] for name, values in rows.items()})
        if waiting is not None and len(waiting[1]["op"]):
            yield _group(waiting[1], 0, len(waiting[1]["op"]), waiting[0])


def _begins(rows: Columns) -> list[int]:
    """Return where the runs of rows of one time, request, step and op begin."""
    anew = np.zeros(len(rows["op"]), np.bool_)
    anew[:1] = True
    for name in ("timestamp", "request", "step", "op"):
        anew[1:] |= rows[name][1:] != rows[name][:-1]
    firsts: list[int] = np.flatnonzero(anew).tolist()
    return firsts


def _group(rows: Columns, begin: int, end: int, first: int) -> _Group:
    _, firsts = np.unique(rows["key"][begin:end], return_index=True)
    chosen = begin + np.sort(firsts)
    return _Group(
        request=int(rows["request"][begin]),
        kind=_LOAD if rows["op"][begin] == Op.READ else _STORE,
        time_ns=int(rows["timestamp"][begin]),
        key=rows["key"][chosen],
        size=rows["size"][chosen].astype(np.int64),
        rank=filled({name: values[chosen] for name, values in rows.items()}, "rank").astype(
            np.int64
        ),
        last_row=first + end - 1,
    )


@dataclass(slots=True)
class _Prompt:
    """A request's look-up, which waits until all that it asks for is known."""

    time_ns: int
    ends: int
    groups: list[_Group] = field(default_factory=list)


class _Script:
    """The calls in order of time."""

    def __init__(self, trace: Trace, calls: lct.Calls, groups: _Groups) -> None:
        self._calls, self._groups = calls, groups
        self._reverse = trace.header.config.get("touch_order", "tail-first") == "tail-first"
        self._tokens = (trace.header.layout or {}).get("block_tokens")
        self._open: dict[int, _Prompt] = {}
        self._queue: deque[_Prompt | _Group] = deque()
        self.rows = 0

    def frames(self, epoch_s: float) -> Iterator[bytes]:
        """Yield the calls' frames."""
        for group in self._groups:
            self._take(group)
            while self._queue and self._ready(self._queue[0], group.last_row):
                yield self._framed(self._queue.popleft(), epoch_s)
        while self._queue:
            yield self._framed(self._queue.popleft(), epoch_s)

    def _take(self, group: _Group) -> None:
        prompt = self._open.get(group.request)
        if prompt is None:
            ends = self._groups.prompt_ends(group.request)
            prompt = self._open[group.request] = _Prompt(group.time_ns, ends)
            self._queue.append(prompt)
        if group.last_row <= prompt.ends:
            prompt.groups.append(group)
        self._queue.append(group)

    @staticmethod
    def _ready(item: _Prompt | _Group, row: int) -> bool:
        return isinstance(item, _Group) or item.ends <= row

    def _framed(self, item: _Prompt | _Group, epoch_s: float) -> bytes:
        time_s = item.time_ns / S_NS
        if isinstance(item, _Prompt):
            frame = self._look_up(item, time_s, epoch_s + time_s) if item.groups else b""
            item.groups.clear()
            return frame
        self.rows += len(item.key)
        frames = b""
        for size in np.unique(item.size).tolist():
            some = item.size == size
            frames += self._moved(item, some, size, time_s, epoch_s + time_s)
        return frames

    def _moved(
        self, group: _Group, some: NDArray[np.bool_], size: int, time_s: float, wall_s: float
    ) -> bytes:
        """Return the calls that load or store the objects of one size."""
        calls = self._calls
        keys = {"keys": calls.key_list(calls.keys(group.key[some], group.rank[some]))}
        if group.kind == _STORE:
            layout = {"layout_desc": calls.layout(size, self._tokens)}
            return calls.call(lct.RESERVE, time_s, wall_s, keys | layout) + calls.call(
                lct.FINISH_WRITE, time_s, wall_s, keys
            )
        read = calls.call(lct.ENTER, time_s, wall_s, keys)
        read += calls.call(lct.EXIT, time_s, wall_s, keys)
        return read + calls.call(
            lct.FINISH_READ, time_s, wall_s, keys | {"read_locks": calls.plain(1)}
        )

    def _look_up(self, prompt: _Prompt, time_s: float, wall_s: float) -> bytes:
        """Return the look-up of a prompt, from head to tail, a group of keys per rank."""
        calls, step = self._calls, -1 if self._reverse else 1
        parts = [
            (group.key[::step], group.size[::step], group.rank[::step]) for group in prompt.groups
        ]
        # A block that was found may have had to go and be stored anew: it is asked for once.
        _, firsts = np.unique(np.concatenate([key for key, *_ in parts]), return_index=True)
        key, size, rank = (
            np.concatenate(column)[np.sort(firsts)] for column in zip(*parts, strict=True)
        )
        ranks = np.unique(rank)
        if len({int((rank == of).sum()) for of in ranks}) > 1:
            ranks, rank = ranks[:1], np.full(len(rank), ranks[0])  # rows must be of one length
        layout = calls.layout(int(size[0]), self._tokens)
        groups = [(calls.keys(key[rank == of], rank[rank == of]), layout) for of in ranks]
        arguments = {
            "spec": calls.spec(groups),
            "external_request_id": calls.plain(f"{lct.OWN_REQUEST}{prompt.groups[0].request}"),
            "skip_l2": calls.plain(False),
        }
        return calls.call(lct.LOOK_UP, time_s, wall_s, arguments)
