"""Merges traces by time: of several nodes, kept apart by their numbers, or of one set of keys."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.errors import TraceError
from kvtrace.tools.ids import Apart
from kvtrace.tools.stream import Stream, derived_header, described
from kvtrace.trace.check import Checker
from kvtrace.trace.header import RESIDENT_DTYPE, Header, Resident, SourceInfo, TierInfo
from kvtrace.trace.interleave import interleaved
from kvtrace.trace.schema import COLUMNS, Tier

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from kvtrace.trace.reader import Columns, Trace


def all_columns(traces: Sequence[Trace]) -> tuple[str, ...]:
    """Return the columns that any of the traces has, in the order of the format."""
    names = {name for trace in traces for name in trace.columns}
    return tuple(column.name for column in COLUMNS if column.name in names)


def merged(traces: Sequence[Trace], *, shared_keys: bool = False) -> Stream:
    """Return all rows of the traces as one.

    Each trace is a node of its own: its keys, blocks, requests and sessions have its number in
    their top 16 bits. With `shared_keys` keys and blocks stay as they are; the batches then raise
    TraceError at their end if the traces don't fit together. Traces that all know their epoch
    begin as far apart as they did; others begin together.
    """
    keep = ("key", "block") if shared_keys else ()
    nodes = [Apart(trace, node, keep=keep) for node, trace in enumerate(traces)]
    epochs = [trace.header.epoch_ns for trace in traces]
    known = [epoch for epoch in epochs if epoch is not None]
    epoch_ns = min(known) if len(known) == len(traces) else None
    shifts = [0 if epoch_ns is None or epoch is None else epoch - epoch_ns for epoch in epochs]
    taken = accumulate((node.batches for node in nodes), initial=0)
    streams = [
        moved(node, trace.batches(nulls=True), shift_ns, first_batch=first)
        for node, trace, shift_ns, first in zip(nodes, traces, shifts, taken, strict=False)
    ]
    resident = joined_resident(
        [n.rename_resident(t.resident()) for n, t in zip(nodes, traces, strict=True)]
    )
    columns = all_columns(traces)
    header = _header(traces, shared_keys=shared_keys, epoch_ns=epoch_ns)
    batches = interleaved(streams, columns)
    if shared_keys:
        batches = _checked(batches, header, resident)
    return Stream(header, columns, batches, lambda: resident)


def moved(
    node: Apart, batches: Iterator[Columns], shift_ns: int, *, first_batch: int = 0
) -> Iterator[Columns]:
    """Yield the rows with the node's ids, later by `shift_ns`, batches from `first_batch` on."""
    for columns in batches:
        later = {"timestamp": columns["timestamp"] + shift_ns}
        if first_batch and "batch" in columns:
            later["batch"] = columns["batch"] + np.uint32(first_batch)
        yield node.rename(columns) | later


def joined_resident(parts: Sequence[NDArray[np.void]]) -> NDArray[np.void]:
    """Return the objects of all parts; of the same one several times, the longest."""
    objects = np.concatenate([np.zeros(0, RESIDENT_DTYPE), *parts])
    objects = objects[np.lexsort((objects["size"], objects["key"], objects["tier"]))]
    last = np.ones(len(objects), np.bool_)
    same = (objects["key"][1:] == objects["key"][:-1]) & (
        objects["tier"][1:] == objects["tier"][:-1]
    )
    last[:-1] = ~same
    return objects[last]


def _checked(
    batches: Iterator[Columns], header: Header, resident: NDArray[np.void]
) -> Iterator[Columns]:
    checker = Checker(header, resident)
    for columns in batches:
        checker.add({name: np.ma.filled(values, 0) for name, values in columns.items()})
        yield columns
    for violation in checker.report().violations:
        raise TraceError(
            f"merged with shared keys, a row {violation.meaning}",
            where="--shared-keys",
            got=f"{violation.count:,} rows, first row {violation.rows[0]} of the merged trace",
            accepted="traces that are parts of one",
            hint="leave it out: each trace is then a node of its own",
        )


def joined_tiers(headers: Sequence[Header]) -> list[TierInfo]:
    """Return the tiers of several nodes, each as large as all of theirs together."""
    made = []
    for tier in Tier:
        infos = [info for h in headers for info in h.tiers if info.name == tier.label]
        if not infos:
            continue
        limits = [info.capacity_bytes for info in infos]
        factors = {info.occupancy_factor for info in infos}
        known = all(header.tiers for header in headers) and None not in limits
        same = len(factors) == 1
        held = sum(
            (limit or 0) if same else int((limit or 0) / info.occupancy_factor)
            for limit, info in zip(limits, infos, strict=True)
        )
        changes = {
            "capacity_bytes": held if known else None,
            "occupancy_factor": factors.pop() if same else 1.0,
        }
        made.append(infos[0].model_copy(update=changes))
    return made


_SAME = ("model", "layout", "write_policy", "tensor_parallel", "num_gpus", "ranks", "seed")


def _header(traces: Sequence[Trace], *, shared_keys: bool, epoch_ns: int | None) -> Header:
    headers = [trace.header for trace in traces]
    first = headers[0]
    inputs = [described(t) | ({"history": t.header.history} if t.header.history else {})
              for t in traces]  # fmt: skip
    entry: dict[str, Any] = {"tool": "merge", "shared_keys": shared_keys, "inputs": inputs}
    differing = {
        name: None
        for name in _SAME
        if any(getattr(h, name) != getattr(first, name) for h in headers)
    }
    half = any(h.half_demotions or "replay" in h.statistics for h in headers)
    derived = any(h.resident.derived or h.source is None for h in headers)
    return derived_header(
        first,
        entry,
        history=[entry],
        source=SourceInfo(name="merge"),
        tiers=joined_tiers(headers),
        config=first.config if all(h.config == first.config for h in headers) else {},
        half_demotions=half,
        resident=Resident(derived=derived),
        epoch_ns=epoch_ns,
        dropped_rows=sum(h.dropped_rows for h in headers),
        anonymised=all(h.anonymised for h in headers),
        capture=None,
        **differing,
    )
