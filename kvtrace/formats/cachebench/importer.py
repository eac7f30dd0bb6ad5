"""CacheBench's key-value traces (.csv) of CacheLib: GET, SET and DELETE with keys and sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kvtrace.files.outputs import check_writable
from kvtrace.formats.common import incoming
from kvtrace.formats.common.names import Names, parts_of
from kvtrace.formats.common.order import Reordered, Spool
from kvtrace.formats.common.table import Table, coded, header_of, need_columns, refuse, sizes
from kvtrace.trace.schema import Op, Tier
from kvtrace.units import S_NS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from kvtrace.formats.common.importing import Imported, ImportOptions
    from kvtrace.trace.reader import Columns

OPTIONS = ("tier",)
NEEDED = ("key", "op", "size")
TYPES = {
    "key": pa.string(),
    "op": pa.string(),
    "size": pa.int64(),
    "op_count": pa.int64(),
    "op_time": pa.int64(),
}
"""Source: facebook/CacheLib, cachelib/cachebench/workload/KVReplayGenerator.h (`columnTable_`)."""
OPS = {
    "GET": Op.READ,
    "GET_LEASE": Op.READ,
    "SET": Op.WRITE,
    "SET_LEASE": Op.WRITE,
    "DELETE": Op.DELETE,
}
_OTHER = 255
_MAX_COUNT = (1 << 16) - 1  # CacheBench keeps it in 16 bits
_MAX_TIME_S = (1 << 63) // S_NS - 1
_ROWS_PER_BATCH = 1 << 17
_UNKNOWN = "ops that CacheBench doesn't replay left out"
_EMPTY = "SETs of no bytes left out"
_MISSES = "GETs of no bytes, which missed, became look-ups"


def recognises(path: Path, start: bytes) -> bool:
    """Return whether a file starts with a header of such traces."""
    names = start.partition(b"\n")[0].decode("utf-8", "replace").rstrip("\r").split(",")
    return set(NEEDED) <= set(names) and ("op_count" in names or "key_size" in names)


def convert(paths: Sequence[Path], out: Path, options: ImportOptions) -> Imported:
    """Make a trace of ops on one tier (--tier; by default cpu).

    A row of n ops (`op_count`) becomes n rows. Times are seconds; a file without them gets 0 for
    all, in its order. A GET of no bytes is one that missed: a look-up.
    """
    (path,) = paths
    check_writable(out, force=options.force)
    names = header_of(path, ",")
    need_columns(path, names, NEEDED)
    tier = Tier.CPU if options.tier is None else options.tier
    with Names(out, force=options.force) as known:
        reader = _Reader(path, known, tier, [name for name in TYPES if name in names])
        with Spool(reader.batches(), out.parent) as spool:
            rows = Reordered("timestamp", spool, since=("timestamp",))
            log = incoming.Log(
                "cachebench", paths, epoch_ns=rows.first if "op_time" in names else None
            )
            header, notes = incoming.write(log, rows, out, force=options.force)
    untimed = [] if "op_time" in names else ["the file has no times: all rows are at 0"]
    counts = {"rows were out of order and have been sorted": rows.disorder} | reader.told
    told_of = [*untimed, *incoming.counted(counts), *reader.lost.notes()]
    return incoming.imported(header, [*told_of, *notes], known, out)


class _Reader:
    """Turns blocks of the file into rows."""

    def __init__(self, path: Path, names: Names, tier: Tier, columns: list[str]) -> None:
        self._path, self._names, self._tier, self._columns = path, names, tier, columns
        self.told = dict.fromkeys((_UNKNOWN, _EMPTY, _MISSES), 0)
        self.lost = incoming.Lost()

    def batches(self) -> Iterator[Columns]:
        """Yield the rows, in the file's order."""
        table = Table(self._path, {name: TYPES[name] for name in self._columns}, delimiter=",")
        for before, batch in table:
            if not batch.num_rows:
                continue
            time_ns, count = self._times(before, batch), self._counts(before, batch)
            op = coded(batch.column("op"), OPS, _OTHER)
            size = sizes(batch.column("size"), self._path, before, "size")
            known, missed = op != _OTHER, (op == Op.READ) & (size == 0)
            empty = (op == Op.WRITE) & (size == 0)
            lost = np.flatnonzero(~known & (size > 0))
            self.lost.note_rows(batch.column("op"), lost, incoming.NOT_UNDERSTOOD, size, count)
            nothing = ~known & (size == 0)
            for what, mask in ((_UNKNOWN, nothing), (_EMPTY, empty), (_MISSES, missed)):
                self.told[what] += int(count[mask].sum())
            op = np.where(missed, Op.LOOKUP, op).astype(np.uint8)
            keys = batch.column("key")
            refuse(pc.equal(keys, ""), keys, self._path, before, name="key", accepted="a key")
            key, tier = self._names.of(parts_of(keys), self._tier)
            columns: Columns = {
                "timestamp": time_ns,
                "op": op,
                "size": np.where(op <= Op.WRITE, size, 0),
                "key": key,
                "tier": tier,
                "phase": incoming.phases(np.minimum(op, Op.LOOKUP)),
            }
            kept = known & ~empty
            for some in _slices(count):
                taken = some[kept[some]]
                yield {name: values[taken] for name, values in columns.items()}

    def _times(self, before: int, batch: pa.RecordBatch) -> NDArray[np.int64]:
        if "op_time" not in self._columns:
            return np.zeros(batch.num_rows, np.int64)
        values = batch.column("op_time")
        bad = pc.or_(pc.less(values, 0), pc.greater(values, _MAX_TIME_S))
        refuse(bad, values, self._path, before, name="op_time", accepted="seconds, 0 or more")
        seconds: NDArray[np.int64] = values.to_numpy(zero_copy_only=False)
        return seconds * S_NS

    def _counts(self, before: int, batch: pa.RecordBatch) -> NDArray[np.int64]:
        if "op_count" not in self._columns:
            return np.ones(batch.num_rows, np.int64)
        values = batch.column("op_count")
        bad = pc.or_(pc.less(values, 1), pc.greater(values, _MAX_COUNT))
        refuse(bad, values, self._path, before, name="op_count", accepted=f"1 to {_MAX_COUNT}")
        counts: NDArray[np.int64] = values.to_numpy(zero_copy_only=False)
        return counts


def _slices(count: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Yield each row's index as often as its count, some rows at a time."""
    ends = np.cumsum(count)
    begin = 0
    while begin < len(count):
        done = int(ends[begin - 1]) if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, done + _ROWS_PER_BATCH, side="right")))
        yield np.repeat(np.arange(begin, end), count[begin:end])
        begin = end
