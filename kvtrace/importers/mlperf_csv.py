"""The MLPerf Storage KV benchmark's CSV (.csv, .csv.zst): sorted, keys hashed, evictions paired."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv
import xxhash

from kvtrace.csvfile import HEADER, OPS, PHASES, TIERS
from kvtrace.errors import TraceError
from kvtrace.header import RESIDENT_DTYPE, Header, Producer, Resident, SourceInfo
from kvtrace.importers import Imported
from kvtrace.schema import MAX_SIZE_BYTES, Op, Phase
from kvtrace.textfile import open_binary
from kvtrace.version import VERSION
from kvtrace.writer import TraceWriter, check_writable, file_sha256

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from kvtrace.importers import ImportOptions

OPTIONS = ()

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
    Read and Write with phase Evict gets the delete that the benchmark doesn't write. Objects read
    before any write become declared residents. Keys of 16 hex digits are taken as they are; other
    ones are hashed (xxh3-64), their names kept beside `out` in `<name>.keys.parquet`.
    """
    (path,), force = paths, options.force
    names_path = out.with_name(f"{out.stem}.keys.parquet")
    check_writable(out, force=force)
    check_writable(names_path, force=force)
    survey = _survey(path)
    keys = _Keys()
    residents = _Residents()
    header = Header(
        producer=Producer(version=VERSION),
        source=SourceInfo(name="mlperf-csv", sha256=[file_sha256(path)]),
        resident=Resident(derived=True),
        epoch_ns=survey.first_ns,
    )
    evictions = None if survey.has_deletes else _Evictions()
    frames = _sorted_whole(path) if survey.disorder else _frames(path)
    with TraceWriter(out, header, force=force) as writer:
        for frame in frames:
            columns = _columns(frame, keys, survey.first_ns)
            residents.note(columns)
            writer.append(columns if evictions is None else evictions.completed(columns))
        writer.resident = residents.array()
        header = writer.close()
    notes = []
    if survey.disorder:
        notes.append(f"{survey.disorder} rows were out of order and have been sorted")
    if evictions is not None and evictions.added:
        notes.append(f"{evictions.added} deletes added, one per eviction pair")
    if len(writer.resident):
        notes.append(f"{len(writer.resident)} objects are read before any write: declared resident")
    if keys.names:
        keys.write(names_path)
        notes.append(f"{len(keys.names)} key names kept in {names_path.name}")
    return Imported(header, tuple(notes))


class _Survey:
    """What a first pass over the file finds."""

    def __init__(self) -> None:
        self.rows = 0
        self.disorder = 0
        self.first_ns = 0
        self.has_deletes = False


def _survey(path: Path) -> _Survey:
    found, last_ns, least_ns = _Survey(), 0, None
    for frame in _frames(path):
        times = frame["ns"].to_numpy()
        running = np.maximum.accumulate(np.concatenate(([last_ns], times)))
        found.disorder += int((times < running[:-1]).sum())
        last_ns = int(running[-1])
        least_ns = int(times.min()) if least_ns is None else min(least_ns, int(times.min()))
        found.rows += len(times)
        found.has_deletes |= bool((frame["Operation"] == "Delete").any())
    if found.rows == 0:
        raise TraceError("no rows", where=path, accepted="at least one row below the header")
    found.first_ns = least_ns or 0
    return found


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


def _sorted_whole(path: Path) -> Iterator[pl.DataFrame]:
    yield pl.concat(list(_frames(path))).sort("ns", maintain_order=True)


class _Keys:
    """Turns key strings into u64."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}

    def of(self, texts: pl.Series) -> NDArray[np.uint64]:
        unique = texts.unique(maintain_order=True)
        own = unique.str.contains(_OWN_KEY)
        numbers = [
            int(text, 16) if is_own else self._hashed(text)
            for text, is_own in zip(unique.to_list(), own.to_list(), strict=True)
        ]
        table = pl.DataFrame({"text": unique, "key": pl.Series(numbers, dtype=pl.UInt64)})
        joined = texts.to_frame("text").join(table, on="text", how="left", maintain_order="left")
        return joined["key"].to_numpy()

    def _hashed(self, text: str) -> int:
        if text not in self.names:
            self.names[text] = xxhash.xxh3_64_intdigest(text.encode())
        return self.names[text]

    def write(self, path: Path) -> None:
        frame = pl.DataFrame(
            {"key": pl.Series(list(self.names.values()), dtype=pl.UInt64), "name": list(self.names)}
        )
        frame.write_parquet(path)


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
        self._seen: set[tuple[int, int]] = set()
        self._found: list[tuple[int, int, int]] = []

    def note(self, columns: Columns) -> None:
        frame = pl.DataFrame({name: columns[name] for name in ("tier", "key", "op", "size")})
        firsts = frame.unique(subset=["tier", "key"], keep="first", maintain_order=True)
        for tier, key, op, size in firsts.iter_rows():
            if (tier, key) not in self._seen:
                self._seen.add((tier, key))
                if op != Op.WRITE:
                    self._found.append((tier, key, size))

    def array(self) -> NDArray[np.void]:
        return np.array(self._found, RESIDENT_DTYPE)


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
