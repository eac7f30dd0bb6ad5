"""The MLPerf Storage KV benchmark's CSV (.csv, .csv.zst): sorted, keys hashed, evictions paired."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import xxhash

from kvtrace.errors import TraceError, UsageError
from kvtrace.files.outputs import check_writable
from kvtrace.files.textfile import open_binary
from kvtrace.formats.common.capacity import Capacity, Evictions, TooSmallError, sufficient
from kvtrace.formats.common.importing import Imported, header_of, names_path, with_model
from kvtrace.formats.common.names import NamesFile
from kvtrace.formats.common.order import TimeOrder
from kvtrace.formats.common.words import BAD, seconds_ns
from kvtrace.formats.mlperf_csv.csvfile import HEADER, OPS, PHASES, TIERS
from kvtrace.placement.keys import KeyTable
from kvtrace.trace.header import RESIDENT_DTYPE
from kvtrace.trace.schema import MAX_SIZE_BYTES, Op, Tier
from kvtrace.trace.writer import TraceWriter
from kvtrace.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from kvtrace.formats.common.importing import ImportOptions

OPTIONS = ("nvme_capacity_bytes", "model")

Columns = dict[str, "NDArray[Any]"]
_BLOCK_BYTES = 2 << 20
_NO_WORD = 255
_LARGER = "an object is larger than the nvme tier"
_NO_ROOM = "read of an object for which there was no room any more on nvme"
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
    `<name>.keys.parquet`. With `model` the header has its bytes per token, so that a replay tells
    tokens per second.
    """
    (path,), force = paths, options.force
    check_writable(out, force=force)
    surveyed = _survey(path)
    header = header_of("mlperf-csv", paths, epoch_ns=surveyed.order.first)
    header = header if options.model is None else with_model(header, options.model)
    per_token = int((header.model or {}).get("rank_bytes_per_token", 1))
    deletes = _deletes(path, surveyed, options)
    residents = _Residents()
    with ExitStack() as stack:
        keys = _Keys(stack, names_path(out), force=force)
        writer = stack.enter_context(TraceWriter(out, header, force=force))
        batches = _rows(path, keys, per_token)
        for rows in surveyed.order.sorted("timestamp", batches, since=("timestamp",)):
            residents.note(rows)
            try:
                for adds in deletes:
                    rows = adds.completed(rows)
            except TooSmallError as error:
                assert options.nvme_capacity_bytes is not None
                raise _too_small(
                    path, surveyed, keys, error, options.nvme_capacity_bytes
                ) from error
            writer.append(rows)
        writer.resident = residents.array()
        header = writer.close()
    return Imported(header, tuple(_notes(surveyed, deletes, residents, keys)))


def _deletes(path: Path, surveyed: _Survey, options: ImportOptions) -> list[Evictions | Capacity]:
    """Return the filter that adds the deletes that the file lacks."""
    capacity = options.nvme_capacity_bytes
    if surveyed.has_deletes:
        if capacity is not None:
            raise UsageError(
                "the file has deletes already",
                where=path,
                got="--nvme-capacity",
                hint="leave it out",
            )
        return []
    if capacity is None:
        return [Evictions()]
    if capacity <= 0:
        raise UsageError("not a capacity", where="--nvme-capacity", got=capacity)
    return [Evictions(), Capacity(Tier.NVME, capacity)]


def _too_small(
    path: Path, surveyed: _Survey, keys: _Keys, error: TooSmallError, capacity: int
) -> TraceError:
    """Return the error of a capacity with which a row finds no room, naming one that fits."""
    parts: list[Columns] = []
    for rows in surveyed.order.sorted("timestamp", _rows(path, keys)):
        mine = (rows["tier"] == Tier.NVME) & (rows["op"] <= Op.WRITE)
        parts.append({name: rows[name][mine] for name in ("op", "size", "key")})
    op, size, key = (np.concatenate([part[n] for part in parts]) for n in ("op", "size", "key"))
    fitting = sufficient(op, size, key, capacity)
    line, name = _line_of(path, keys, error, surveyed.order.first)
    return TraceError(
        _LARGER if error.larger else _NO_ROOM,
        where=f"{path}: row {line}",
        got=f"key {name}, --nvme-capacity {format_bytes(capacity)}",
        accepted=f"{fitting:,} bytes, with which all reads are served",
        hint="give the capacity that the file was made with",
    )


def _line_of(path: Path, keys: _Keys, error: TooSmallError, first_ns: int) -> tuple[int, str]:
    """Return the row, the header being row 1, and the key's name of what finds no room."""
    for block in _blocks(path, HEADER):
        names = pl.Series(pl.from_arrow(block.strings("Key")))
        same = (block.times_ns() - first_ns == error.timestamp_ns) & (keys.of(names) == error.key)
        same &= (block.words("Tier") == Tier.NVME) & (block.words("Operation") <= Op.WRITE)
        if same.any():
            at = int(same.argmax())
            return block.first + at, str(names[at])
    return 0, f"{error.key:016x}"


def _notes(
    surveyed: _Survey, deletes: list[Evictions | Capacity], residents: _Residents, keys: _Keys
) -> Iterator[str]:
    if surveyed.order.disorder:
        yield f"{surveyed.order.disorder} rows were out of order and have been sorted"
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

    order: TimeOrder
    has_deletes: bool = False


def _survey(path: Path) -> _Survey:
    surveyed = _Survey(TimeOrder())
    for block in _blocks(path, ("Timestamp", "Operation")):
        surveyed.order.note(block.times_ns())
        surveyed.has_deletes |= bool((block.words("Operation") == Op.DELETE).any())
    if surveyed.order.rows == 0:
        raise TraceError("no rows", where=path, accepted="at least one row below the header")
    return surveyed


def _rows(path: Path, keys: _Keys, per_token: int = 1) -> Iterator[Columns]:
    for block in _blocks(path, HEADER):
        block.check_tokens(per_token)
        yield {
            "timestamp": block.times_ns(),
            "op": block.words("Operation"),
            "size": block.sizes(),
            "tier": block.words("Tier"),
            "key": keys.of(pl.Series(pl.from_arrow(block.strings("Key")))),
            "phase": block.words("Phase"),
        }


def _blocks(path: Path, names: Sequence[str]) -> Iterator[_Block]:
    """Yield some columns of the file, some rows at a time."""
    _check_header(path)
    first_row = 2
    word = pa.dictionary(pa.int32(), pa.string())
    types = {
        "Timestamp": pa.string(),
        "Object_Size_Bytes": pa.uint64(),
        "Key": pa.string(),
        **dict.fromkeys(_ACCEPTED, word),
    }
    with open_binary(path) as stream:
        try:
            reader = pa_csv.open_csv(
                stream,
                read_options=pa_csv.ReadOptions(block_size=_BLOCK_BYTES),
                convert_options=pa_csv.ConvertOptions(
                    column_types=types, include_columns=list(names), strings_can_be_null=False
                ),
            )
            for batch in reader:
                if batch.num_rows:
                    yield _Block(path, first_row, batch)
                first_row += batch.num_rows
        except pa.ArrowInvalid as error:
            raise TraceError(
                f"not such a CSV at or after row {first_row}: {error}", where=path
            ) from error


def _check_header(path: Path) -> None:
    with open_binary(path) as stream:
        first = stream.read(4096).split(b"\n")[0].rstrip()
    if first.decode("utf-8", "replace").split(",") != list(HEADER):
        raise TraceError(
            "wrong columns",
            where=path,
            got=repr(first[:80].decode("utf-8", "replace")),
            accepted=",".join(HEADER),
        )


@dataclass(frozen=True, slots=True)
class _Block:
    """Some rows of the file, from row `first` on (the header is row 1); columns are checked."""

    path: Path
    first: int
    batch: pa.RecordBatch

    def times_ns(self) -> NDArray[np.int64]:
        """Return the timestamps in ns."""
        column = self.batch.column("Timestamp").fill_null("")
        begin = np.frombuffer(column.buffers()[1], np.int32)[column.offset :]
        data = np.frombuffer(column.buffers()[2], np.uint8)
        times_ns = seconds_ns(data, begin[: len(column)], begin[1 : len(column) + 1])
        self._refuse(times_ns == BAD, "Timestamp", "Unix seconds, 0 to 9223372036")
        return times_ns.view(np.int64)

    def sizes(self) -> NDArray[np.uint64]:
        """Return the sizes."""
        column = self.batch.column("Object_Size_Bytes")
        values = column.fill_null(0).to_numpy(zero_copy_only=False)
        bad = (values == 0) | (values > MAX_SIZE_BYTES)
        self._refuse(bad, "Object_Size_Bytes", f"1 to {MAX_SIZE_BYTES}")
        return np.asarray(values, np.uint64)

    def check_tokens(self, per_token: int) -> None:
        """Raise TraceError for an object that isn't of whole tokens of the model."""
        if per_token > 1:
            self._refuse(
                self.sizes() % np.uint64(per_token) != 0, "Object_Size_Bytes",
                f"whole tokens of the model, {per_token:,} bytes each: name the one of the run",
            )  # fmt: skip

    def words(self, name: str) -> NDArray[np.uint8]:
        """Return the wire values of a column of words."""
        column = self.batch.column(name)
        accepted = _ACCEPTED[name]
        known = [accepted.get(text, _NO_WORD) for text in column.dictionary.to_pylist()]
        values = np.array([*known, _NO_WORD], np.uint8)[column.indices.fill_null(-1).to_numpy()]
        self._refuse(values == _NO_WORD, name, ", ".join(accepted))
        return np.asarray(values, np.uint8)

    def strings(self, name: str) -> pa.Array:
        """Return a column of text."""
        column = self.batch.column(name)
        empty = pc.equal(pc.binary_length(column), 0).fill_null(True).to_numpy(False)
        self._refuse(empty, name, "text")
        return column

    def _refuse(self, bad: NDArray[np.bool_], name: str, accepted: str) -> None:
        if bad.any():
            at = int(bad.argmax())
            raise TraceError(
                "value not accepted",
                where=f"{self.path}: row {self.first + at}, column {name}",
                got=str(self.batch.column(name)[at]) or "nothing",
                accepted=accepted,
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
            self._file.append(hashes[new], names.filter(pl.Series(new)).to_arrow())


def _hex(texts: pl.Series) -> NDArray[np.uint64]:
    """Return the numbers that 16 hex digits each are."""
    raw = pa.array(texts.str.decode("hex").to_arrow()).cast(pa.binary())
    data = np.frombuffer(raw.buffers()[2], ">u8", len(texts), raw.offset * 8)
    return data.astype(np.uint64)


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
