"""Times of a replay's loads from a tier, request by request, from its result's ops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.errors import TraceError
from kvtrace.hierarchy.native import LOAD
from kvtrace.hierarchy.served import LOADS, check_requests
from kvtrace.native.hashmap import Interner
from kvtrace.trace.outcomes import idle
from kvtrace.trace.schema import Op, Tier
from kvtrace.units import S_NS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from kvtrace.breakeven.recompute import Values
    from kvtrace.trace.reader import Trace

_READ = ("op", "tier", "phase", "size", "key", "request", "step", "submit", "complete")
_OPTIONAL = ("due", "error")
_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Times:
    """A request's reads from a tier, in order of request: none failed and all were done.

    `load_s`: from the first submission to the last completion. `response_s`: from when the first
    was due; None where nothing is due. Both are 1 ns at least. `failed`: requests that are left
    out. `window_s`: from the first submission of these ops and of writes to the last completion.
    """

    request: NDArray[np.uint64]
    moved_bytes: NDArray[np.int64]
    load_s: Values
    response_s: Values | None
    failed: int
    window_s: float
    written: Written


@dataclass(frozen=True, slots=True)
class Written:
    """Writes to the tier: their bytes, and the seconds in which at least one was under way."""

    moved_bytes: int
    busy_s: float


def is_measured(trace: Trace) -> bool:
    """Return whether a trace's ops were done, so that it has their times."""
    return {"submit", "complete"} <= set(trace.columns)


def read_times(trace: Trace, tier: Tier) -> Times:
    """Return the times of loads from `tier`.

    Raises TraceError where no load was done, or requests can't be told from the rows.
    """
    check_requests(trace, hint="give the result that kvtrace replay --out wrote")
    parts = list(_batches(trace))
    rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    own = (rows["tier"] == tier) & (~rows["load"] | _first_of(rows))
    rows = {name: values[own] for name, values in rows.items()}
    read = rows["load"]
    if not (read & rows["done"]).any():
        raise TraceError(f"no load from tier {tier.label} was done", where=trace.path)
    done = rows["done"]
    window_ns = int(rows["complete"][done].max() - rows["submit"][done].min())
    has_due = bool((rows["due"][read & done] != _NEVER).all())
    loads = {name: values[read] for name, values in rows.items()}
    index = Interner().intern(loads["request"].view(np.int64))
    firsts = np.unique(index, return_index=True)[1]
    begin, due, end, bad, moved = _gathered(loads, index, len(firsts))
    good = ~bad
    return Times(
        request=loads["request"][firsts][good],
        moved_bytes=moved[good],
        load_s=(end - begin)[good].clip(min=1) / S_NS,
        response_s=(end - due)[good].clip(min=1) / S_NS if has_due else None,
        failed=int(bad.sum()),
        window_s=window_ns / S_NS,
        written=_written(rows),
    )


def _gathered(loads: dict[str, Any], index: NDArray[np.int64], count: int) -> tuple[Any, ...]:
    """Return per request the first submission, the first due, the last completion, bad, bytes."""
    begin, due = np.full(count, _NEVER), np.full(count, _NEVER)
    end, bad = np.zeros(count, np.int64), np.zeros(count, np.bool_)
    np.minimum.at(begin, index, np.where(loads["done"], loads["submit"], _NEVER))
    np.minimum.at(due, index, loads["due"])
    np.maximum.at(end, index, np.where(loads["done"], loads["complete"], 0))
    np.logical_or.at(bad, index, ~loads["done"])
    moved = np.bincount(index, loads["size"], minlength=count).astype(np.int64)
    return begin, due, end, bad, moved


def _first_of(rows: dict[str, Any]) -> NDArray[np.bool_]:
    """Return which rows are a request's first load of their object.

    A live engine moves what it loads from below into a faster tier, and reads it there again.
    """
    order = np.lexsort((np.arange(len(rows["key"])), rows["key"], rows["request"], ~rows["load"]))
    key, request = rows["key"][order], rows["request"][order]
    first = np.ones(len(order), np.bool_)
    first[order[1:]] = (key[1:] != key[:-1]) | (request[1:] != request[:-1])
    return first


def _batches(trace: Trace) -> Iterator[dict[str, Any]]:
    """Yield the loads and the writes."""
    names = [*_READ, *(name for name in _OPTIONAL if name in trace.columns)]
    for rows in trace.batches(names, nulls=True):
        known = ~np.ma.getmaskarray(rows["request"])
        step = np.ma.filled(rows["step"], 0)
        load = (rows["op"] == Op.READ) & np.isin(rows["phase"], LOADS) & (step == LOAD) & known
        error = np.ma.filled(rows["error"], 0) if "error" in rows else np.zeros(len(load), np.int64)
        kept = (load | (rows["op"] == Op.WRITE)) & ~idle(error)
        timed = ~np.ma.getmaskarray(rows["submit"]) & ~np.ma.getmaskarray(rows["complete"])
        due = np.ma.filled(rows["due"], _NEVER) if "due" in rows else np.full(len(load), _NEVER)
        yield {
            "load": load[kept],
            "tier": np.asarray(rows["tier"])[kept],
            "key": rows["key"][kept],
            "request": np.ma.getdata(rows["request"])[kept],
            "size": rows["size"][kept].astype(np.int64),
            "submit": np.ma.filled(rows["submit"], 0)[kept].astype(np.int64),
            "complete": np.ma.filled(rows["complete"], 0)[kept].astype(np.int64),
            "due": due[kept].astype(np.int64),
            "done": (timed & (error == 0))[kept],
        }


def _written(rows: dict[str, Any]) -> Written:
    own = ~rows["load"] & rows["done"]
    if not own.any():
        return Written(0, 0.0)
    order = np.argsort(rows["submit"][own], kind="stable")
    begin, end = rows["submit"][own][order], rows["complete"][own][order]
    before = np.append(begin[0], np.maximum.accumulate(end)[:-1])
    busy_ns = np.maximum(0, end - np.maximum(begin, before)).sum()
    return Written(int(rows["size"][own].sum()), float(busy_ns) / S_NS)
