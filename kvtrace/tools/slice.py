"""Cuts a part out of a trace: a time range, rows, tiers, a sample of its sessions."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.errors import UsageError
from kvtrace.tools.live import LiveObjects
from kvtrace.tools.sample import SessionSample, Share, need_sessions
from kvtrace.tools.stream import Stream, derived_header, described
from kvtrace.trace.schema import Op, Phase, Tier
from kvtrace.units import format_duration_ns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from kvtrace.trace.header import Header
    from kvtrace.trace.reader import Columns, Trace


@dataclass(frozen=True, slots=True)
class Cut:
    """What is kept: rows with begin ≤ time < end and first ≤ number < end, of these tiers.

    `tiers` empty: all. With `keep_time` rows keep their times, else the first becomes 0.
    """

    begin_ns: int = 0
    end_ns: int | None = None
    first_row: int = 0
    end_row: int | None = None
    tiers: tuple[Tier, ...] = ()
    sessions: Share | None = None
    seed: int = 0
    keep_time: bool = False

    def __post_init__(self) -> None:
        for name, begin, end, written in (
            ("time range", self.begin_ns, self.end_ns, format_duration_ns),
            ("range of rows", self.first_row, self.end_row, str),
        ):
            if end is not None and end <= begin:
                got = f"{written(begin)} to {written(end)}"
                raise UsageError(f"{name} is empty", got=got)

    @property
    def cuts_rows(self) -> bool:
        """Whether rows at either end are left out."""
        ends = self.end_ns is not None or self.end_row is not None
        return bool(self.begin_ns or self.first_row or ends)

    def history(self) -> dict[str, Any]:
        """Return what the header says of it."""
        fields = {
            name: value
            for name, value in asdict(self).items()
            if value not in (None, (), False) and name not in ("tiers", "sessions", "seed")
        }
        if self.tiers:
            fields["tiers"] = [tier.label for tier in self.tiers]
        if self.sessions is not None:
            fields |= {"sessions": self.sessions.count or self.sessions.ratio, "seed": self.seed}
        return fields


class _Window:
    """The rows between a cut's ends, with their numbers."""

    def __init__(self, trace: Trace, cut: Cut) -> None:
        self._trace, self._cut = trace, cut

    def numbered(self, names: tuple[str, ...] | None, *, before: bool = False) -> Iterator[
        tuple[int, NDArray[np.bool_], Columns]
    ]:  # fmt: skip
        """Yield batches: number of the first row, which rows are inside, the columns.

        Batches before the window come only if asked for, those behind it never.
        """
        cut, first = self._cut, 0
        wanted = None if names is None else ("timestamp", *names)
        for columns in self._trace.batches(wanted, nulls=True):
            times = columns["timestamp"]
            rows = np.arange(first, first + len(times))
            inside = (times >= cut.begin_ns) & (rows >= cut.first_row)
            behind = np.zeros(len(times), np.bool_)
            if cut.end_ns is not None:
                behind |= times >= cut.end_ns
            if cut.end_row is not None:
                behind |= rows >= cut.end_row
            if before or (inside & ~behind).any():
                yield first, inside & ~behind, columns
            if behind.any():
                return
            first += len(times)

    def rows(self, names: tuple[str, ...]) -> Iterator[Columns]:
        """Yield the columns of the rows that are inside, and of chosen tiers."""
        tiers = self._cut.tiers
        wanted = (*names, "tier") if tiers and "tier" not in names else names
        for _, inside, columns in self.numbered(wanted):
            kept = inside & np.isin(columns["tier"], tiers) if tiers else inside
            yield {name: columns[name][kept] for name in names}


def sliced(trace: Trace, cut: Cut) -> Stream:
    """Return the part of a trace that `cut` keeps.

    What it reads or deletes before writing it becomes resident. A demotion that an end of the
    range would cut in half isn't there at all: one whose read comes before it has left its object
    where it wrote it, one whose write comes behind it has yet to happen. Raises UsageError for a
    sample of sessions of a trace without sessions.
    """
    window, sample = _Window(trace, cut), None
    if cut.sessions is not None:
        need_sessions(trace, where="--sessions")
        sample = SessionSample(cut.sessions, cut.seed, window.rows)
    halves = _cut_demotions(window) if cut.cuts_rows and not cut.tiers else set()
    live = LiveObjects(trace.resident())
    shift_ns = 0 if cut.keep_time else _first_ns(window, sample, halves, cut)

    def batches() -> Iterator[Columns]:
        for first, inside, columns in window.numbered(None, before=True):
            kept = _kept(first, inside, columns, cut, sample, halves)
            live.observe(columns, kept)
            if kept.any():
                part = {name: values[kept] for name, values in columns.items()}
                part["timestamp"] = part["timestamp"] - shift_ns
                yield part

    return Stream(_header(trace, cut, shift_ns), trace.columns, batches(), live.found)


def _kept(
    first: int,
    inside: NDArray[np.bool_],
    columns: Columns,
    cut: Cut,
    sample: SessionSample | None,
    halves: set[int],
) -> NDArray[np.bool_]:
    kept = inside.copy()
    if cut.tiers:
        kept &= np.isin(columns["tier"], cut.tiers)
    if sample is not None:
        kept &= sample.keep(columns)
    mine = [row - first for row in halves if first <= row < first + len(kept)]
    kept[mine] = False
    return kept


def _first_ns(
    window: _Window, sample: SessionSample | None, halves: set[int], cut: Cut
) -> int:  # fmt: skip
    """Return the time of the first row that is kept; 0 if none is."""
    names: tuple[str, ...] = ("op", "tier", "phase", "key")
    names = (*names, "session") if sample is not None else names
    for first, inside, columns in window.numbered(names):
        kept = _kept(first, inside, columns, cut, sample, halves)
        if kept.any():
            return int(columns["timestamp"][np.argmax(kept)])
    return 0


def _cut_demotions(window: _Window) -> set[int]:
    """Return the rows inside that are one half of a demotion, the other half being outside.

    A key's demotions are a read and a write in turn. Memory grows with those under way.
    """
    alone: set[int] = set()
    under_way: dict[int, int] = {}
    for first, inside, columns in window.numbered(("op", "phase", "key")):
        evicts = inside & (columns["phase"] == Phase.EVICT) & (columns["op"] <= Op.WRITE)
        rows = np.flatnonzero(evicts)
        keys, ops = columns["key"][rows], columns["op"][rows]
        order = np.lexsort((rows, keys))
        same = keys[order][:-1] == keys[order][1:]
        pairs = same & (ops[order][:-1] == Op.READ) & (ops[order][1:] == Op.WRITE)
        open_ = np.ones(len(rows), np.bool_)
        open_[order[:-1][pairs]] = open_[order[1:][pairs]] = False
        for key, op, row in zip(keys[open_], ops[open_], rows[open_], strict=True):
            if op == Op.READ:
                under_way[int(key)] = first + int(row)
            elif under_way.pop(int(key), None) is None:
                alone.add(first + int(row))
    return alone | set(under_way.values())


def _header(trace: Trace, cut: Cut, shift_ns: int) -> Header:
    header = trace.header
    entry = {"tool": "slice", **cut.history(), "input": described(trace)}
    made = derived_header(header, entry)
    if cut.tiers:
        labels = {tier.label for tier in cut.tiers}
        changes = {
            "half_demotions": True,
            "tiers": [tier for tier in header.tiers if tier.name in labels],
        }
        made = made.model_copy(update=changes)
    if header.epoch_ns is not None:
        made = made.model_copy(update={"epoch_ns": header.epoch_ns + shift_ns})
    return made
