"""The MLPerf Storage KV benchmark's CSV (.csv, .csv.zst): sorted, keys hashed, evictions paired."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv
import xxhash

from kvtrace.csvfile import HEADER, OPS, PHASES, TIERS
from kvtrace.errors import TraceError, UsageError
from kvtrace.header import RESIDENT_DTYPE, Header, Producer, Resident, SourceInfo
from kvtrace.importers import Imported
from kvtrace.inputs.capacity import Capacity
from kvtrace.inputs.names import NamesFile
from kvtrace.inputs.ordered import Disorder, in_order
from kvtrace.placement.keys import KeyTable
from kvtrace.schema import MAX_SIZE_BYTES, Op, Phase, Tier
from kvtrace.textfile import open_binary
from kvtrace.version import VERSION
from kvtrace.writer import TraceWriter, check_writable, file_sha256

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from kvtrace.importers import ImportOptions

OPTIONS = ("nvme_capacity_bytes",)

Columns = dict[str, "NDArray[Any]"]
_OWN_KEY = r"^[0-9a-f]{16}$"
_ACCEPTED = {
    "Operation": {word: int(op) for op, word in OPS.items()},
    "Tier": {word: int(tier) for tier, word in TIERS.items()},
    "Phase": {word: int(phase) for phase, word in PHASES.items()},
}


def recognises(path: Path, start: bytes) -> bool:
    """Return whether a file starts with this format's header."""
    return start.startswith(",".join(HEADER[:3]).encode())


def convert(paths: Sequence[Path], out: Path, options: ImportOptions) -> Imported:
    """Make a trace from a CSV.

    Rows out of order are sorted stably and counted. Where the file has no deletes, each pair of
    Read and Write with phase Evict gets the delete that the benchmark doesn't write, and with
    `nvme_capacity_bytes` so does each object that no longer fits on nvme, the least recently used
    one first. Objects read before any write become declared residents. Keys of 16 hex digits are
    taken as they are; other ones are hashed (xxh3-64), their names kept beside `out` in
    `<name>.keys.parquet`.
    """
    (path,), force = paths, options.force
    check_writable(out, force=force)
    found = _survey(path)
    header = Header(
        producer=Producer(version=VERSION),
        source=SourceInfo(name="mlperf-csv", sha256=[file_sha256(path)]),
        resident=Resident(derived=True),
        epoch_ns=found.order.first_ns,
    )
    deletes = _deletes(path, found, options)
    residents = _Residents()
    with ExitStack() as stack:
        keys = _Keys(stack, out.with_name(f"{out.stem}.keys.parquet"), force=force)
        writer = stack.enter_context(TraceWriter(out, header, force=force))
        for rows in in_order(_rows(path, keys, found.order.first_ns), found.order.window_ns):
            residents.note(rows)
            for adds in deletes:
                rows = adds.completed(rows)
            writer.append(rows)
        writer.resident = residents.array()
        header = writer.close()
    return Imported(header, tuple(_notes(found, deletes, residents, keys)))


def _deletes(path: Path, found: _Survey, options: ImportOptions) -> list[_Evictions | Capacity]:
    """Return what adds the deletes that the file lacks."""
    capacity = options.nvme_capacity_bytes
    if found.has_deletes:
        if capacity is not None:
            raise UsageError(
                "the file has deletes already",
                where=path,
                got="--nvme-capacity",
                hint="leave it out",
            )
        return []
    if capacity is None:
        return [_Evictions()]
    if capacity <= 0:
        raise UsageError("not a capacity", where="--nvme-capacity", got=capacity)
    return [_Evictions(), Capacity(Tier.NVME, capacity, path)]


def _notes(
    found: _Survey, deletes: list[_Evictions | Capacity], residents: _Residents, keys: _Keys
) -> Iterator[str]:
    if found.order.late:
        yield f"{found.order.late} rows were out of order and have been sorted"
    for adds in deletes:
        if isinstance(adds, Capacity):
            yield f"{adds.deleted:,} deletes added for room on nvme; {adds.live:,} objects live"
        elif adds.added:
            yield f"{adds.added} deletes added, one per eviction pair"
    if residents.count:
        yield f"{residents.count} objects are read before any write: declared resident"
    if keys.named:
        yield f"{keys.named} key names kept in {keys.path.name}"


@dataclass(slots=True)
class _Survey:
    """What a first pass over the file finds."""

    order: Disorder
    has_deletes: bool = False


def _survey(path: Path) -> _Survey:
    found = _Survey(Disorder())
    for frame in _frames(path):
        found.order.note(frame["ns"].to_numpy())
        found.has_deletes |= bool((frame["Operation"] == "Delete").any())
    if found.order.rows == 0:
        raise TraceError("no rows", where=path, accepted="at least one row below the header")
    return found


def _rows(path: Path, keys: _Keys, first_ns: int) -> Iterator[Columns]:
    for frame in _frames(path):
        yield _columns(frame, keys, first_ns)


def _frames(path: Path) -> Iterator[pl.DataFrame]:
    """Yield the file's rows with `row` (of the file, header is 1) and `ns`, checked."""
    first_row = 2
    with open_binary(path) as stream:
        try:
            reader = pa_csv.open_csv(
                stream,
                read_options=pa_csv.ReadOptions(block_size=8 << 20),
                convert_options=pa_csv.ConvertOptions(
                    column_types={
                        "Timestamp": pa.decimal128(20, 9),
                        "Object_Size_Bytes": pa.uint64(),
                        **dict.fromkeys(("Operation", "Tier", "Key", "Phase"), pa.string()),
                    }
                ),
            )
            if tuple(reader.schema.names) != HEADER:
                raise TraceError(
                    "wrong columns",
                    where=path,
                    got=",".join(reader.schema.names),
                    accepted=",".join(HEADER),
                )
            for batch in reader:
                frame = _with_ns(batch)
                _check(frame, path, first_row)
                first_row += len(frame)
                if len(frame):
                    yield frame
        except pa.ArrowInvalid as error:
            raise TraceError(
                f"not such a CSV at or after row {first_row}: {error}", where=path
            ) from error


def _with_ns(batch: pa.RecordBatch) -> pl.DataFrame:
    # A decimal(20, 9) is its value in billionths: the low 64 bits of it are nanoseconds.
    stamps = batch.column("Timestamp")
    raw = np.frombuffer(stamps.buffers()[1], np.int64).reshape(-1, 2)
    ns = raw[stamps.offset : stamps.offset + len(stamps), 0]
    frame = pl.DataFrame(pl.from_arrow(batch.drop_columns(["Timestamp"])))
    return frame.with_columns(
        ns=pl.Series(ns.copy()), null=pl.Series(stamps.is_null().to_numpy(False))
    )


def _check(frame: pl.DataFrame, path: Path, first_row: int) -> None:
    """Raise TraceError for the first row that isn't what it should be."""
    for name, words in _ACCEPTED.items():
        _refuse(~frame[name].is_in(list(words)), frame[name], path, first_row, list(words))
    sizes = frame["Object_Size_Bytes"]
    bad = (sizes == 0) | (sizes > MAX_SIZE_BYTES)
    _refuse(bad, sizes, path, first_row, [f"1 to {MAX_SIZE_BYTES}"])
    _refuse(frame["null"], frame["null"], path, first_row, ["a timestamp in seconds"])


def _refuse(
    bad: pl.Series, values: pl.Series, path: Path, first_row: int, accepted: list[str]
) -> None:
    bad = bad.fill_null(value=True)
    if bad.any():
        at = int(bad.arg_max() or 0)
        raise TraceError(
            "value not accepted",
            where=f"{path}: row {first_row + at}, column {values.name}",
            got=values[at],
            accepted=", ".join(accepted),
        )


class _Keys:
    """Turns key strings into u64, and keeps the names of those that are hashed."""

    def __init__(self, stack: ExitStack, path: Path, *, force: bool) -> None:
        check_writable(path, force=force)
        self.path = path
        self._stack, self._force = stack, force
        self._file: NamesFile | None = None
        self._known = KeyTable()

    @property
    def named(self) -> int:
        """How many names are kept."""
        return self._known.count

    def of(self, texts: pl.Series) -> NDArray[np.uint64]:
        """Return the keys of a column."""
        own = texts.str.contains(_OWN_KEY)
        if own.all():
            return _hex(texts)
        unique = texts.filter(~own).unique(maintain_order=True)
        digest = xxhash.xxh3_64_intdigest
        hashes = np.array([digest(text) for text in unique.cast(pl.Binary).to_list()], np.uint64)
        self._note(unique, hashes)
        table = pl.DataFrame({"text": unique, "key": hashes})
        joined = texts.to_frame("text").join(table, on="text", how="left", maintain_order="left")
        keys = joined["key"].fill_null(0).to_numpy().copy()
        mine = own.to_numpy()
        keys[mine] = _hex(texts.filter(own))
        return keys

    def _note(self, names: pl.Series, hashes: NDArray[np.uint64]) -> None:
        before = self._known.count
        new = self._known.add(hashes) >= before
        if new.any():
            if self._file is None:
                self._file = self._stack.enter_context(NamesFile(self.path, force=self._force))
            self._file.append(hashes[new], names.filter(pl.Series(new)))


def _hex(texts: pl.Series) -> NDArray[np.uint64]:
    """Return the numbers that 16 hex digits each are."""
    raw = pa.array(texts.str.decode("hex").to_arrow()).cast(pa.binary())
    data = np.frombuffer(raw.buffers()[2], ">u8", len(texts), raw.offset * 8)
    return data.astype(np.uint64)


def _columns(frame: pl.DataFrame, keys: _Keys, first_ns: int) -> Columns:
    def words(name: str) -> NDArray[Any]:
        return frame[name].replace_strict(_ACCEPTED[name], return_dtype=pl.UInt8).to_numpy()

    return {
        "timestamp": frame["ns"].to_numpy() - first_ns,
        "op": words("Operation"),
        "size": frame["Object_Size_Bytes"].to_numpy(),
        "tier": words("Tier"),
        "key": keys.of(frame["Key"]),
        "phase": words("Phase"),
    }


class _Residents:
    """Finds the objects whose first op on a tier is a read or a delete."""

    def __init__(self) -> None:
        self.count = 0
        self._seen = {tier: KeyTable() for tier in TIERS}
        self._found: list[NDArray[np.void]] = []

    def note(self, columns: Columns) -> None:
        """Take the next rows."""
        for tier, table in self._seen.items():
            rows = np.flatnonzero(columns["tier"] == tier)
            before = table.count
            index = table.add(columns["key"][rows])
            new = np.flatnonzero(index >= before)
            firsts = rows[new[np.unique(index[new], return_index=True)[1]]]
            firsts = firsts[columns["op"][firsts] != Op.WRITE]
            made = np.zeros(len(firsts), RESIDENT_DTYPE)
            made["tier"], made["key"] = tier, columns["key"][firsts]
            made["size"] = columns["size"][firsts]
            self._found.append(made)
            self.count += len(made)

    def array(self) -> NDArray[np.void]:
        """Return them all."""
        return np.concatenate([np.zeros(0, RESIDENT_DTYPE), *self._found])


class _Evictions:
    """Adds to each pair of Read and Write with phase Evict the delete that it means."""

    def __init__(self) -> None:
        self.added = 0
        self._pending: dict[int, tuple[int, int]] = {}

    def completed(self, columns: Columns) -> Columns:
        """Return the rows with the deletes, each right behind its pair's Write."""
        evicts = np.flatnonzero((columns["phase"] == Phase.EVICT) & (columns["op"] <= Op.WRITE))
        behind, tiers, sizes = [], [], []
        for row in evicts.tolist():
            key, tier = int(columns["key"][row]), int(columns["tier"][row])
            if columns["op"][row] == Op.READ:
                self._pending[key] = (tier, int(columns["size"][row]))
            elif key in self._pending:
                from_tier, size = self._pending.pop(key)
                behind.append(row)
                tiers.append(from_tier)
                sizes.append(size)
        self.added += len(behind)
        places = np.array(behind, np.int64) + 1
        added = {
            "timestamp": columns["timestamp"][behind],
            "op": np.full(len(behind), Op.DELETE, np.uint8),
            "size": np.array(sizes, np.uint64),
            "tier": np.array(tiers, np.uint8),
            "key": columns["key"][behind],
            "phase": np.full(len(behind), Phase.EVICT, np.uint8),
        }
        return {name: np.insert(columns[name], places, added[name]) for name in columns}
