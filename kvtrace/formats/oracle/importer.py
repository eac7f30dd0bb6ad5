"""libCacheSim's oracleGeneral traces: each access a read of an object."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kvtrace.errors import TraceError
from kvtrace.files.outputs import check_writable
from kvtrace.files.textfile import open_binary
from kvtrace.formats.common import incoming
from kvtrace.formats.common.importing import Imported
from kvtrace.formats.common.order import zero_ns
from kvtrace.formats.oracle.record import NEVER, NEVER_TOO, RECORD
from kvtrace.native.library import contiguous
from kvtrace.trace.schema import Op, Phase, Tier
from kvtrace.units import S_NS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from kvtrace.formats.common.importing import ImportOptions
    from kvtrace.trace.reader import Columns

OPTIONS = ("tier",)
_BLOCK_RECORDS = 1 << 18
_FEW = 2
_STARTS_WITH = 4096
_MOST_RECORDS = 1 << 40
"""More than any file has; text taken for a number is larger."""
_EMPTY = "accesses to objects of no bytes left out"


def recognises(path: Path, start: bytes) -> bool:
    """Return whether a file starts with records of which each may stand behind the others."""
    whole = len(start) // RECORD.itemsize
    if whole == 0 or (len(start) < _STARTS_WITH and len(start) % RECORD.itemsize):
        return False
    records = np.frombuffer(start, RECORD, whole)
    following = records["next"]
    if ((following > _MOST_RECORDS) & (following != NEVER_TOO)).any():
        return False
    named = "oracleGeneral" in path.name
    return (named or whole >= _FEW) and not any(bad.any() for bad, *_ in _faults(records, 0, 0))


def convert(paths: Sequence[Path], out: Path, options: ImportOptions) -> Imported:
    """Make a trace of the accesses, reads on one tier (--tier; by default nvme).

    The format doesn't tell reads from writes, so that all objects are resident at the start. Times
    count from the first access.
    """
    (path,) = paths
    check_writable(out, force=options.force)
    tier = Tier.NVME if options.tier is None else options.tier
    counts = {_EMPTY: 0}
    zero = zero_ns(_first_ns(path))
    log = incoming.Log("oracle", paths, epoch_ns=zero)
    header, notes = incoming.write(log, _rows(path, tier, zero, counts), out, force=options.force)
    return Imported(header, (*incoming.counted(counts), *notes))


def _rows(path: Path, tier: Tier, zero: int, counts: dict[str, int]) -> Iterator[Columns]:
    for block in _blocks(path):
        records = block[block["size"] > 0]
        count = len(records)
        counts[_EMPTY] += len(block) - count
        yield {
            "timestamp": records["time"].astype(np.int64) * S_NS - zero,
            "op": np.full(count, Op.READ, np.uint8),
            "size": records["size"].astype(np.uint64),
            "tier": np.full(count, tier, np.uint8),
            "key": contiguous(records["id"]),
            "phase": np.full(count, Phase.DECODE, np.uint8),
        }


def _first_ns(path: Path) -> int:
    """Return the time of the first access of an object of some bytes."""
    for block in _blocks(path):
        if some := block["time"][block["size"] > 0].tolist():
            return int(some[0]) * S_NS
    return 0


def _blocks(path: Path) -> Iterator[NDArray[np.void]]:
    """Yield the records, checked."""
    before, last_s = 0, 0
    with open_binary(path) as stream:
        while data := _read(stream, _BLOCK_RECORDS * RECORD.itemsize):
            if len(data) % RECORD.itemsize:
                raise TraceError(
                    "the file ends within a record",
                    where=f"{path}: record {before + len(data) // RECORD.itemsize}",
                    accepted=f"records of {RECORD.itemsize} bytes",
                    hint="get it again",
                )
            records = np.frombuffer(data, RECORD)
            for bad, name, accepted in _faults(records, before, last_s):
                if bad.any():
                    at = int(np.argmax(bad))
                    raise TraceError(
                        f"{name} not accepted",
                        where=f"{path}: record {before + at}",
                        got=int(records[name][at]),
                        accepted=accepted,
                    )
            yield records
            before, last_s = before + len(records), int(records["time"][-1])


def _read(stream: object, count: int) -> bytes:
    """Return the next bytes, fewer than asked for only at the end."""
    parts: list[bytes] = []
    while count and (part := stream.read(count)):  # type: ignore[attr-defined]
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _faults(
    records: NDArray[np.void], before: int, last_s: int
) -> Iterator[tuple[NDArray[np.bool_], str, str]]:
    """Yield what is wrong with which records: the field, and what is accepted."""
    times = records["time"].astype(np.int64)
    yield np.diff(times, prepend=last_s) < 0, "time", "times that don't decrease"
    numbers = np.arange(before, before + len(records))
    following = records["next"]
    ends = (following == NEVER) | (following == NEVER_TOO)
    yield ~ends & (following <= numbers), "next", "a later record, or -1"
