"""Random small traces for properties of exporters and importers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from hypothesis import strategies as st

from kvtrace.trace.header import RESIDENT_DTYPE, Header
from kvtrace.trace.reader import open_trace
from kvtrace.trace.schema import Op, Phase, Tier
from kvtrace.trace.writer import TraceWriter

if TYPE_CHECKING:
    from pathlib import Path

WORDS = {"op": Op, "tier": Tier, "phase": Phase}
PHASES = {Op.READ: Phase.DECODE, Op.WRITE: Phase.PREFILL, Op.DELETE: Phase.EVICT}
SIZES = (1, 4096, 1 << 20, (1 << 32) - 1)


@dataclass(frozen=True)
class Rows:
    """A small trace: columns, what is resident, when its clock's zero was."""

    columns: dict[str, Any]
    resident: np.ndarray
    epoch_ns: int | None

    def write(self, path: Path) -> Path:
        """Write it as a trace."""
        names = ("timestamp", "op", "size", "tier", "key", "phase")
        more = tuple(name for name in self.columns if name not in names)
        header = Header(epoch_ns=self.epoch_ns)
        with TraceWriter(path, header, more, resident=self.resident) as writer:
            writer.append(self.columns)
        return path

    @property
    def touched(self) -> set[tuple[int, int, int]]:
        """The residents that some row reads before writing them, as (tier, key, size)."""
        seen, found = set(), set()
        sizes = {(int(t), int(k)): int(s) for t, k, s in self.resident}
        for op, tier, key in zip(
            *(self.columns[n].tolist() for n in ("op", "tier", "key")), strict=True
        ):
            if op != Op.LOOKUP and (tier, key) not in seen:
                seen.add((tier, key))
                if op == Op.READ:
                    found.add((tier, key, sizes[tier, key]))
        return found


def read_rows(path: Path, columns: list[str]) -> pl.DataFrame:
    """Return columns of a trace, words as strings."""
    frame = pl.read_parquet(path).select(columns)
    return frame.with_columns(pl.col(name).cast(pl.String) for name in columns if name in WORDS)


def residents(path: Path) -> set[tuple[int, int, int]]:
    """Return the residents of a trace as (tier, key, size)."""
    with open_trace(path) as trace:
        return {(int(t), int(k), int(s)) for t, k, s in trace.resident()}


_STEP = st.tuples(
    st.sampled_from([0, 0, 1, 999, 1_000_003, 2_500_000_000]),
    st.sampled_from(list(Op)),
    st.sampled_from(list(Tier)),
    st.integers(0, 5),
    st.sampled_from(SIZES),
)
KEYS = (0, 1, 2, 1 << 48, (1 << 64) - 1, 77)


@st.composite
def rows(draw: st.DrawFn, *, measured: bool | None = None) -> Rows:
    """Draw a trace whose objects are whole, written or resident before they are read."""
    steps = draw(st.lists(_STEP, min_size=1, max_size=40))
    live: dict[tuple[int, int], int] = {}
    resident: dict[tuple[int, int], int] = {}
    known: set[tuple[int, int]] = set()
    now, found = 0, []
    for delta, op, tier, index, size in steps:
        now += delta
        place = (int(tier), KEYS[index])
        if op == Op.READ and place not in known:
            resident[place] = live[place] = size
        op = Op.WRITE if op in (Op.READ, Op.DELETE) and place not in live else op
        if op == Op.WRITE:
            live.setdefault(place, size)
        moved = 0 if op == Op.LOOKUP else live[place]
        if op != Op.LOOKUP:
            known.add(place)
        found.append((now, op, moved, tier, KEYS[index], PHASES.get(op, Phase.DECODE)))
        if op == Op.DELETE:
            del live[place]
    types = ("i8", "u1", "u8", "u1", "u8", "u1")
    names = ("timestamp", "op", "size", "tier", "key", "phase")
    columns: dict[str, Any] = {
        name: np.array([row[at] for row in found], kind)
        for at, (name, kind) in enumerate(zip(names, types, strict=True))
    }
    columns |= draw(_optional(len(found)))
    if measured if measured is not None else draw(st.booleans()):
        columns |= draw(_measured(columns))
    listed = [(tier, key, size) for (tier, key), size in resident.items()]
    epoch = draw(st.sampled_from([None, 1_740_553_426_194_021_003]))
    return Rows(columns, np.array(listed, RESIDENT_DTYPE), epoch)


@st.composite
def _optional(draw: st.DrawFn, count: int) -> dict[str, Any]:
    """Draw columns that only some traces have."""
    found: dict[str, Any] = {}
    if draw(st.booleans()):
        values = draw(st.lists(st.integers(0, (1 << 64) - 1), min_size=count, max_size=count))
        mask = draw(st.lists(st.booleans(), min_size=count, max_size=count))
        found["request"] = np.ma.masked_array(np.array(values, np.uint64), mask=mask)
    if draw(st.booleans()):
        values = draw(st.lists(st.integers(0, 65535), min_size=count, max_size=count))
        found["rank"] = np.array(values, np.uint16)
    return found


@st.composite
def _measured(draw: st.DrawFn, columns: dict[str, Any]) -> dict[str, Any]:
    """Draw outcomes: submitted in order, each for some time, some reads failing."""
    count = len(columns["op"])
    took = draw(st.lists(st.integers(0, 10**10), min_size=count, max_size=count))
    failing = draw(st.lists(st.sampled_from([0, 0, 5, 110]), min_size=count, max_size=count))
    submit = columns["timestamp"] + draw(st.integers(0, 10**9))
    error = np.where(columns["op"] <= Op.WRITE, failing, 0).astype(np.int32)
    return {"submit": submit, "complete": submit + np.array(took), "error": error}
