"""Mooncake's request traces (.jsonl): what each request asked for, as ids of 512 tokens each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from kvtrace.errors import TraceError, UsageError
from kvtrace.files.outfile import OutFile
from kvtrace.formats.common.exporting import Exported, ExportOptions
from kvtrace.formats.common.order import joined_columns
from kvtrace.formats.common.requests import LastRows
from kvtrace.hierarchy.served import GENERATED, check_requests, served
from kvtrace.units import MS_NS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from kvtrace.trace.reader import Columns, Trace

OPTIONS = ()
BLOCK_TOKENS = 512
LOSES = (
    "all but the requests: ops, sizes, tiers, phases, times of ops, outcomes",
    "tokens that fill no block, and prompts of no whole block: lengths are those of whole blocks",
    "time below a millisecond",
    "sessions, qos and ranks",
    "what docs/whatif.md says can't be told from rows (blocks behind a prompt's first hole)",
    "the header",
)
SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")


def export(trace: Trace, out: Path, options: ExportOptions) -> Exported:
    """Write the trace's requests, in order of arrival.

    Raises TraceError for a trace without them, or of blocks that don't divide 512 tokens.
    """
    if not out.name.endswith(SUFFIXES):
        raise UsageError("unknown kind of output", where=out, accepted=", ".join(SUFFIXES))
    check_requests(trace)
    block_tokens = _block_tokens(trace)
    reverse = trace.header.config.get("touch_order", "tail-first") == "tail-first"
    requests = _Requests(trace, reverse=reverse)
    with OutFile(out, force=options.force) as file:
        for prompts in requests.complete():
            file.write(_lines(prompts, block_tokens))
        if requests.count == 0:
            raise UsageError("no request in this trace", where=trace.path)
    return Exported(requests.count, 0, LOSES)


def _block_tokens(trace: Trace) -> int:
    tokens = (trace.header.layout or {}).get("block_tokens")
    if not tokens or BLOCK_TOKENS % tokens:
        raise TraceError(
            "its blocks make no ids of 512 tokens",
            where=trace.path,
            got=f"blocks of {tokens} tokens" if tokens else "blocks of unknown or any length",
            accepted="blocks of 512 tokens, or of a divisor of it",
            hint="record with --block-tokens 512",
        )
    return int(tokens)


@dataclass(frozen=True, slots=True)
class _Prompts:
    """Requests: time of arrival, blocks generated, and the blocks of prompts from head to tail.

    `owner`: which request each block belongs to, by its index.
    """

    time_ns: NDArray[np.int64]
    generated: NDArray[np.int64]
    owner: NDArray[np.int64]
    block: NDArray[np.uint64]


def _lines(prompts: _Prompts, block_tokens: int) -> bytes:
    """Return the requests' lines.

    An id is that of the last of its blocks, which stands for all before it: a block's identity is
    that of its prefix.
    """
    each = BLOCK_TOKENS // block_tokens
    lengths = np.bincount(prompts.owner, minlength=len(prompts.time_ns))
    place = np.arange(len(prompts.owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    ends = (place % each == each - 1) | (place == np.repeat(lengths, lengths) - 1)
    ids = pl.DataFrame({"owner": prompts.owner[ends], "id": prompts.block[ends]})
    listed = ids.group_by("owner", maintain_order=True).agg(pl.col("id").cast(pl.String))
    frame = pl.DataFrame(
        {
            "timestamp": prompts.time_ns // MS_NS,
            "input_length": lengths * block_tokens,
            "output_length": prompts.generated * block_tokens,
            "hash_ids": listed["id"].list.join(", "),
        }
    )
    names = frame.columns
    fields = ", ".join(f'"{name}": {{}}' for name in names[:-1])
    form = f'{{{{{fields}, "{names[-1]}": [{{}}]}}}}'
    lines = frame.select(pl.format(form, *names))
    return lines.write_csv(include_header=False, quote_style="never").encode()


class _Requests:
    """Puts a trace's requests together from rows that stand among those of others.

    A first pass learns which row is each one's last; memory grows with the number of requests, and
    with the rows of those that run at the same time.
    """

    def __init__(self, trace: Trace, *, reverse: bool) -> None:
        self._trace, self._reverse = trace, reverse
        self._requests = LastRows()
        seen = 0
        for rows in served(trace):
            count = len(rows["request"])
            self._requests.note(rows["request"], np.arange(seen, seen + count))
            seen += count
        self.count = 0

    def complete(self) -> Iterator[_Prompts]:
        """Yield the requests, some at a time."""
        seen, first = 0, 0
        waiting: Columns = {}
        for rows in served(self._trace):
            rows["number"] = self._requests.numbers(rows["request"])
            seen += len(rows["number"])
            joined = joined_columns(waiting, rows)
            end = first + int(np.argmax(np.append(self._requests.last[first:] >= seen, True)))
            done = joined["number"] < end
            prompts = self._prompts({name: values[done] for name, values in joined.items()})
            if len(prompts.time_ns):
                self.count += len(prompts.time_ns)
                yield prompts
            waiting = {name: values[~done] for name, values in joined.items()}
            first = end

    def _prompts(self, rows: Columns) -> _Prompts:
        """Return the requests of rows; one that is known only by what it generated is none."""
        generated = rows["kind"] == GENERATED
        asked = _first_of_each({name: values[~generated] for name, values in rows.items()})
        made = _first_of_each({name: values[generated] for name, values in rows.items()})
        numbers, begins = np.unique(asked["number"], return_index=True)
        place = np.arange(len(asked["number"]))
        order = np.lexsort((-place if self._reverse else place, asked["kind"], asked["number"]))
        at = np.searchsorted(numbers, made["number"])
        at = at[np.isin(made["number"], numbers)]
        return _Prompts(
            time_ns=asked["time"][begins],
            generated=np.bincount(at, minlength=len(numbers)),
            owner=np.searchsorted(numbers, asked["number"][order]),
            block=asked["block"][order],
        )


def _first_of_each(rows: Columns) -> Columns:
    """Return a row per request and block, in the order of requests, what was found first.

    A block that was found may have had to go and be stored anew: it is asked for once.
    """
    place = np.arange(len(rows["number"]))
    order = np.lexsort((place, rows["kind"], rows["block"], rows["number"]))
    first = np.ones(len(order), np.bool_)
    for name in ("number", "block"):
        same = rows[name][order][1:] == rows[name][order][:-1]
        first[1:] = ~same if name == "number" else first[1:] | ~same
    kept = np.sort(order[first])
    kept = kept[np.argsort(rows["number"][kept], kind="stable")]
    return {name: values[kept] for name, values in rows.items()}
