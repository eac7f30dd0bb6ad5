"""LMCache's .lct recordings (needs kvtrace[lmcache]): look-ups, loads and stores as ops."""

from __future__ import annotations

import importlib
from collections import defaultdict, deque
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from kvtrace.errors import TraceError, UsageError
from kvtrace.files.outputs import check_writable
from kvtrace.formats.common import incoming
from kvtrace.formats.common.importing import Imported
from kvtrace.formats.common.order import Reordered, Spool
from kvtrace.formats.lmcache import lct
from kvtrace.models import DTYPE_BYTES
from kvtrace.sources.lmcache import MAGIC, records, torch_dtype
from kvtrace.trace.schema import MAX_SIZE_BYTES, Op, Tier

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from kvtrace.formats.common.importing import ImportOptions
    from kvtrace.trace.reader import Columns

OPTIONS = ("tier",)
NEEDS = lct.NEEDS
_RECORDS_PER_BATCH = 4096
_FIELDS = ("timestamp", "op", "size", "key", "request", "known", "submit", "complete")
_Row = tuple[int, int, int, int, int, bool, int, int]


def recognises(path: Path, start: bytes) -> bool:
    """Return whether a file starts with the header of a recording."""
    return MAGIC in start[4:64] and start[:1] == b"\0"


def convert(paths: Sequence[Path], out: Path, options: ImportOptions) -> Imported:
    """Make a trace of the storage manager's calls on one tier (--tier; by default cpu).

    A look-up asks for each of its keys; a store lasts from reserve_write to finish_write, a load
    from entering to leaving read_prefetched_results. What LMCache evicts isn't recorded.
    """
    (path,) = paths
    check_writable(out, force=options.force)
    try:
        importlib.import_module(NEEDS)
    except ImportError as error:
        raise UsageError(f"needs the package {NEEDS}", where="format lmcache",
                         hint="pip install 'kvtrace[lmcache]'") from error  # fmt: skip
    tier = Tier.CPU if options.tier is None else options.tier
    reader = _Reader(path, tier)
    with Spool(reader.batches(), out.parent) as spool:
        rows = Reordered("timestamp", spool, since=("timestamp", "submit", "complete"))
        columns = ("request", "submit", "complete")
        log = incoming.Log("lmcache", paths, columns, epoch_ns=rows.first)
        header, notes = incoming.write(log, rows, out, force=options.force)
    return Imported(header, (*incoming.counted(reader.told), *notes))


class _Reader:
    """Turns records into rows; `told`: what was left out."""

    def __init__(self, path: Path, tier: Tier) -> None:
        self._path, self._tier = path, tier
        self.told: dict[str, int] = {}

    def batches(self) -> Iterator[Columns]:
        """Yield rows, a store and a load when it is over."""
        self.told = dict.fromkeys(
            ("stores that were never finished left out", "keys of unknown size left out"), 0
        )
        state = _State(self.told)
        rows: list[_Row] = []
        for number, time_ns, record in records(self._path):
            method = str(record.get("qualname")).removeprefix(lct.MANAGER)
            try:
                rows += state.rows(method, time_ns, record)
            except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
                raise TraceError(
                    f"a call of {method} without {error}",
                    where=f"{self._path}:{number}",
                    accepted="arguments as LMCache 0.5 writes them",
                ) from error
            if len(rows) >= _RECORDS_PER_BATCH:
                yield self._columns(rows)
                rows = []
        if rows:
            yield self._columns(rows)
        self.told["stores that were never finished left out"] = state.unfinished

    def _columns(self, rows: list[_Row]) -> Columns:
        parts = dict(zip(_FIELDS, zip(*rows, strict=True), strict=True))
        op = np.array(parts["op"], np.uint8)
        known = np.array(parts["known"], np.bool_)
        return {
            "timestamp": np.array(parts["timestamp"], np.int64),
            "op": op,
            "size": np.array(parts["size"], np.int64),
            "tier": np.full(len(op), self._tier, np.uint8),
            "key": np.array(parts["key"], np.uint64),
            "phase": incoming.phases(op),
            "request": np.ma.masked_array(np.array(parts["request"], np.uint64), mask=~known),
            "submit": np.array(parts["submit"], np.int64),
            "complete": np.array(parts["complete"], np.int64),
        }


class _State:
    """What is open, and what is known of keys and requests."""

    def __init__(self, counts: dict[str, int]) -> None:
        self._told = counts
        self._size: dict[int, int] = {}
        self._stores: dict[int, int] = {}
        self._loads: defaultdict[tuple[int, ...], deque[int]] = defaultdict(deque)
        self._requests: dict[str, int] = {}

    @property
    def unfinished(self) -> int:
        """How many keys are still reserved."""
        return len(self._stores)

    def rows(self, method: str, time_ns: int, record: dict[str, Any]) -> list[_Row]:
        """Return the rows that a call ends."""
        if method == lct.LOOK_UP:
            return self._look_up(record["args"], time_ns)
        if method not in (lct.RESERVE, lct.FINISH_WRITE, lct.ENTER, lct.EXIT):
            return []
        keys = [_key(each["v"]) for each in record["args"]["keys"]]
        if method == lct.RESERVE:
            self._learn(keys, record["args"]["layout_desc"]["v"])
            self._stores.update(dict.fromkeys(keys, time_ns))
            return []
        if method == lct.FINISH_WRITE:
            return self._moved(
                keys, Op.WRITE, [self._stores.pop(k, time_ns) for k in keys], time_ns
            )
        if method == lct.ENTER:
            self._loads[tuple(keys)].append(time_ns)
            return []
        entered = self._loads.get(tuple(keys))
        start_ns = entered.popleft() if entered else time_ns
        if not entered:
            self._loads.pop(tuple(keys), None)
        return self._moved(keys, Op.READ, [start_ns] * len(keys), time_ns)

    def _look_up(self, arguments: dict[str, Any], time_ns: int) -> list[_Row]:
        rows: list[_Row] = []
        text = str(arguments.get("external_request_id") or "")
        request = self._request(text)
        for group in arguments["spec"]["v"]["key_groups"]:
            keys = [_key(each["v"]) for each in group["v"]["keys"]]
            self._learn(keys, group["v"]["layout_desc"]["v"])
            rows += [
                (time_ns, Op.LOOKUP, 0, key, request, bool(text), time_ns, time_ns) for key in keys
            ]
        return rows

    def _request(self, text: str) -> int:
        number = text.removeprefix(lct.OWN_REQUEST)
        if number != text and number.isdecimal() and int(number) < 1 << 64:
            return int(number)
        return self._requests.setdefault(text, len(self._requests))

    def _learn(self, keys: list[int], layout: dict[str, Any]) -> None:
        size = sum(
            prod(int(extent) for extent in shape) * DTYPE_BYTES[torch_dtype(dtype)]
            for shape, dtype in zip(layout["shapes"], layout["dtypes"], strict=True)
        )
        if not 0 < size <= MAX_SIZE_BYTES:
            raise ValueError(f"a size from 1 to {MAX_SIZE_BYTES}: {size}")
        self._size.update(dict.fromkeys(keys, size))

    def _moved(self, keys: list[int], op: Op, starts: list[int], end_ns: int) -> list[_Row]:
        rows: list[_Row] = []
        for key, start_ns in zip(keys, starts, strict=True):
            size = self._size.get(key)
            if size is None:
                self._told["keys of unknown size left out"] += 1
            else:
                rows.append((start_ns, op, size, key, 0, False, start_ns, end_ns))
        return rows


def _key(fields: dict[str, Any]) -> int:
    """Return one of our keys as it is, another one's hash."""
    chunk = bytes(fields["chunk_hash"])
    if len(chunk) == lct.HASH_BYTES and chunk.startswith(lct.OWN_HASH):
        return int.from_bytes(chunk[-lct.KEY_BYTES :], "big")
    rest = f"{fields['model_name']}@{fields['kv_rank']}@{fields.get('object_group_id', 0)}"
    return xxhash.xxh3_64_intdigest(chunk + rest.encode())
