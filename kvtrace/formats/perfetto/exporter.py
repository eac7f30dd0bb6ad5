"""A timeline (.json, .json.gz) for ui.perfetto.dev: requests, and the ops of each tier."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from kvtrace.errors import UsageError
from kvtrace.files.outfile import OutFile
from kvtrace.formats.common.exporting import Exported, ExportOptions
from kvtrace.formats.common.rows import Outgoing, chosen_tiers, filled, is_measured
from kvtrace.formats.perfetto.lanes import Lanes
from kvtrace.formats.warp.oplog import hex_keys
from kvtrace.native.hashmap import Interner
from kvtrace.native.library import contiguous
from kvtrace.trace.schema import Op, Phase, Tier
from kvtrace.units import US_NS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from kvtrace.trace.reader import Columns, Trace

OPTIONS = ("tiers",)
LOSES = (
    "rows of tiers other than those of --tiers (by default all)",
    "session, step, rank, block, offset, qos and due",
    "of ops that were measured the timestamp, and those that were never submitted",
    "objects present at the start",
    "the header",
)
SUFFIXES = (".json", ".json.gz")
_REQUESTS = 1
_FIRST_TIER = 2
_COLUMNS = ("phase", "request", "error")
_WORDS = [f"{op.label} {phase.label}" for op in Op for phase in Phase]
_MAX_NS = np.iinfo(np.int64).max


def export(trace: Trace, out: Path, options: ExportOptions) -> Exported:
    """Write a timeline in Chrome's format of trace events.

    Ops that were measured are spans on as many lanes as ran at once, others are instants. Source:
    the Trace Event Format (phases M, X and i), which Perfetto's UI reads.
    """
    if not out.name.endswith(SUFFIXES):
        raise UsageError("unknown kind of output", where=out, accepted=", ".join(SUFFIXES))
    tiers = chosen_tiers(trace, options.tiers, tuple(Tier))
    rows = Outgoing(trace, tiers, _COLUMNS)
    with OutFile(out, force=options.force) as file:
        writer = _Writer(file, measured=is_measured(trace))
        for columns in rows.batches():
            writer.ops(columns)
        if writer.rows == 0:
            raise UsageError("no row of this trace fits into a timeline", where=trace.path)
        writer.close()
    return Exported(writer.rows, rows.dropped, LOSES)


class _Writer:
    """Writes events, the requests' at the end: then it is known when they were over."""

    def __init__(self, file: OutFile, *, measured: bool) -> None:
        self._file, self._measured = file, measured
        self._lanes = {tier: Lanes() for tier in Tier}
        self._requests = _Requests()
        self.rows = 0
        names = [(_REQUESTS, "requests")]
        names += [(_FIRST_TIER + tier, tier.label) for tier in Tier]
        head = [_named(pid, place, name) for place, (pid, name) in enumerate(names)]
        start = '{"displayTimeUnit":"ns","traceEvents":[\n'
        file.write((start + ",\n".join(event for pair in head for event in pair)).encode())
        file.write(b"\n")

    def ops(self, columns: Columns) -> None:
        """Add ops."""
        self._requests.note(columns)
        kind = columns["op"].astype(np.int64) * len(Phase) + columns["phase"]
        place = columns["tier"].astype(np.int64) * len(_WORDS) + kind
        sort = '"X"' if self._measured else '"i","s":"t"'
        heads = [
            f',{{"ph":{sort},"name":"{word}","pid":{_FIRST_TIER + tier}'
            for tier in Tier for word in _WORDS
        ]  # fmt: skip
        self._write(
            {
                "head": pl.Series(heads).gather(place),
                "tid": self._lane(columns),
                "start": columns["start"],
                "took": columns["end"] - columns["start"],
                "key": hex_keys(columns["key"]),
                "bytes": columns["size"],
                "request": _numbers(columns),
                "error": filled(columns, "error"),
            },
            [
                pl.lit('"args":{"key":"') + pl.col("key") + '"',
                _field("bytes"),
                *([] if "error" not in columns else [_field("error")]),
                pl.lit('"request":') + pl.col("request") + "}}",
            ],
        )
        self.rows += len(columns["key"])

    def _lane(self, columns: Columns) -> NDArray[np.int64]:
        lane = np.zeros(len(columns["key"]), np.int64)
        if self._measured:
            for tier, lanes in self._lanes.items():
                some = columns["tier"] == tier
                lane[some] = lanes.of(columns["start"][some], columns["end"][some])
        return lane

    def _write(self, columns: dict[str, Any], arguments: Sequence[pl.Expr]) -> None:
        """Write an event per row; an event's parts are joined by the commas of the format."""
        spans = [_time("dur", "took")] if self._measured else []
        parts = [pl.col("head"), _field("tid"), _time("ts", "start"), *spans, *arguments]
        named = [part.alias(f"p{at}") for at, part in enumerate(parts)]
        lines = io.BytesIO()
        pl.DataFrame(columns).select(named).write_csv(
            lines, include_header=False, quote_style="never"
        )
        self._file.write(lines.getbuffer())

    def close(self) -> None:
        """Add the requests and the end."""
        spans = self._requests.spans()
        if len(spans):
            start, end = spans["start"].to_numpy(), spans["end"].to_numpy()
            self._measured = True  # a request has an end in any case
            self._write(
                {
                    "head": pl.Series([f',{{"ph":"X","pid":{_REQUESTS}'] * len(spans)),
                    "tid": Lanes().of(start, end),
                    "start": start,
                    "took": end - start,
                    "request": spans["request"].cast(pl.String),
                    "ops": spans["ops"],
                    "bytes": spans["bytes"],
                },
                [
                    pl.lit('"name":"request ') + pl.col("request") + '"',
                    pl.lit('"args":{"ops":') + pl.col("ops").cast(pl.String),
                    _field("bytes") + "}}",
                ],
            )
        self._file.write(b"]}\n")


def _numbers(columns: Columns) -> pl.Series:
    """Return each row's request as JSON, null where it has none."""
    if "request" not in columns:
        return pl.Series(["null"]).new_from_index(0, len(columns["key"]))
    names = pl.Series(np.ma.getdata(columns["request"])).cast(pl.String)
    unknown = pl.Series(np.ma.getmaskarray(columns["request"]))
    return names.zip_with(~unknown, pl.Series(["null"]))


def _named(pid: int, place: int, name: str) -> tuple[str, str]:
    """Return the events that name a process and say where it stands."""
    events = (("process_name", {"name": name}), ("process_sort_index", {"sort_index": place}))
    first, second = (
        json.dumps({"ph": "M", "pid": pid, "name": what, "args": args}) for what, args in events
    )
    return first, second


def _field(name: str) -> pl.Expr:
    return pl.lit(f'"{name}":') + pl.col(name).cast(pl.String)


def _time(name: str, column: str) -> pl.Expr:
    """Return a time in µs, with its ns as decimals."""
    whole = (pl.col(column) // US_NS).cast(pl.String)
    return (
        pl.lit(f'"{name}":') + whole + "." + (pl.col(column) % US_NS).cast(pl.String).str.zfill(3)
    )


class _Requests:
    """Learns when each request began and ended; memory grows with their number."""

    def __init__(self) -> None:
        self._numbers = Interner()
        self._found = np.zeros((0, 4), np.int64)
        self._ids = np.zeros(0, np.uint64)

    def note(self, columns: Columns) -> None:
        """Take the rows that serve a request; demotions are forced by one, but not its own."""
        if "request" not in columns:
            return
        kept = ~np.ma.getmaskarray(columns["request"]) & (columns["phase"] != Phase.EVICT)
        ids = np.ma.getdata(columns["request"])[kept]
        number = self._numbers.intern(contiguous(ids).view(np.int64))
        if more := len(self._numbers) - len(self._found):
            self._found = np.vstack((self._found, np.tile([_MAX_NS, 0, 0, 0], (more, 1))))
            self._ids = np.pad(self._ids, (0, more))
        self._ids[number] = ids
        np.minimum.at(self._found[:, 0], number, columns["start"][kept])
        np.maximum.at(self._found[:, 1], number, columns["end"][kept])
        np.add.at(self._found[:, 2], number, 1)
        np.add.at(self._found[:, 3], number, columns["size"][kept].astype(np.int64))

    def spans(self) -> pl.DataFrame:
        """Return the requests, in order of their start."""
        start, end, ops, moved = self._found.T
        frame = pl.DataFrame(
            {"request": self._ids, "start": start, "end": end, "ops": ops, "bytes": moved}
        )
        return frame.sort("start", maintain_order=True)
