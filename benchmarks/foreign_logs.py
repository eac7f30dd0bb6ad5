"""Files as other tools write them, of as many rows as asked for, for `interop.py`.

polars is imported where it is used: not every step that is measured needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from kvtrace.trace.schema import Op, Phase, Tier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import polars as pl
    from numpy.typing import NDArray

LIVE = 50_000
OBJECTS = 4 * LIVE
BATCH = 1 << 18

Columns = dict[str, "NDArray[Any]"]


def batches(rows: int, *, fresh: bool = False) -> Iterator[Columns]:
    """Yield rows of a trace: requests of 80 rows read 40 objects, write 20 and delete 20.

    There are 200,000 objects in all, or with `fresh` a new one for each write.
    """
    for begin in range(0, rows, BATCH):
        yield _columns(np.arange(begin, min(rows, begin + BATCH)), fresh=fresh)


def _columns(row: NDArray[np.int64], *, fresh: bool) -> Columns:
    request, within = row // 80, row % 80
    kind, number = within // 20, request * 20 + within % 20
    behind = np.array([20, LIVE // 2, 0, LIVE])[kind]
    old = number >= behind
    key = np.where(old, number - behind, 0)
    key = key if fresh else key % OBJECTS
    op = np.where(old, np.array([Op.READ, Op.READ, Op.WRITE, Op.DELETE])[kind], Op.LOOKUP)
    phase = np.array([Phase.DECODE, Phase.PREFILL, Phase.EVICT, Phase.DECODE], np.uint8)
    return {
        "timestamp": request * 987_654,
        "op": op.astype(np.uint8),
        "size": np.where(op == Op.LOOKUP, 0, 1 << 20).astype(np.uint64),
        "tier": np.full(len(row), Tier.NVME, np.uint8),
        "key": key.astype(np.uint64),
        "phase": phase[op],
        "request": request.astype(np.uint64),
        "step": np.where(op == Op.WRITE, 2, 1).astype(np.uint16),
        "rank": (number % 8).astype(np.uint16),
        "block": key.astype(np.uint64),
    }


def _words(made: Columns, *words: str) -> pl.Series:
    import polars as pl

    return pl.Series(words).gather(made["op"])


def _cachebench(made: Columns) -> pl.DataFrame:
    import polars as pl

    return pl.DataFrame(
        {
            "op_time": made["timestamp"] // 10**9,
            "key": made["key"] + 10**12,
            "key_size": 16,
            "op": _words(made, "GET", "SET", "DELETE", "GET"),
            "op_count": 1,
            "size": made["size"],
            "cache_hits": 1,
            "ttl": 0,
        }
    )


def _elbencho(made: Columns) -> pl.DataFrame:
    import polars as pl

    stamp = pl.Series(made["timestamp"] // 10**6).cast(pl.Datetime("ms"))
    frame = pl.DataFrame(
        {
            "date": stamp.dt.strftime("%Y-%m-%dT%H:%M:%S%.3f+0000"),
            "op": _words(made, "S3GetObject", "S3PutObject", "S3DeleteObject", "S3HeadObject"),
            "name": made["key"],
            "size": made["size"],
        }
    )
    lines = [
        pl.format(
            '{{ "date": "{}", "worker_rank": 0, "op_name": "{}", "entry_name": "b/{}", '
            '"offset": 0, "length": {}, "is_finished": ' + end + ', "is_error": false }}',
            "date", "op", "name", "size",
        )
        for end in ("false", "true")
    ]  # fmt: skip
    return frame.select(pl.concat_list(lines).alias("line")).explode("line")


def _blkparse(made: Columns) -> pl.DataFrame:
    import polars as pl

    frame = pl.DataFrame(
        {
            "s": made["timestamp"] // 10**9,
            "ns": pl.Series(made["timestamp"] % 10**9).cast(pl.String).str.zfill(9),
            "kind": _words(made, "R", "WS", "DS", "R"),
            "sector": made["key"] * 2048,
        }
    )
    line = "259,0 1 7 {}.{} 697 Q {} {} + 2048 [fio]"
    return frame.select(pl.format(line, "s", "ns", "kind", "sector"))


def _fio_lat(made: Columns) -> pl.DataFrame:
    import polars as pl

    frame = pl.DataFrame(
        {
            "ms": made["timestamp"] // 10**6 + 1,
            "op": _words(made, "0", "1", "2", "0"),
            "place": made["key"] * (1 << 20),
        }
    )
    return frame.select(pl.format("{}, 100000, {}, 1048576, {}, 0", "ms", "op", "place"))


_HEAD = "op_time,key,key_size,op,op_count,size,cache_hits,ttl\n"
LOGS: dict[str, tuple[str, str, Callable[[Columns], pl.DataFrame]]] = {
    "cachebench": ("t.csv", _HEAD, _cachebench),
    "elbencho": ("t.log.zst", "", _elbencho),
    "blkparse": ("t.txt", "", _blkparse),
    "fio-lat": ("t_lat.1.log", "", _fio_lat),
}
"""By format: the file's name, what it begins with, and what makes its lines."""


def write_log(name: str, folder: Path, rows: int, *, fresh: bool) -> Path:
    """Write a file of format `name` with as many ops; return where it is."""
    file, head, lines = LOGS[name]
    with pa.output_stream(folder / file, compression="detect") as stream:
        stream.write(head.encode())
        for made in batches(rows, fresh=fresh):
            text = lines(made).write_csv(include_header=False, quote_style="never")
            stream.write(text.encode())
    return folder / file
