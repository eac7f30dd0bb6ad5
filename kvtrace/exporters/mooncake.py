"""Mooncake's request traces (.jsonl): what each request asked for, as ids of 512 tokens each."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.errors import TraceError, UsageError
from kvtrace.exporters import Exported, ExportOptions
from kvtrace.hashmap import Interner
from kvtrace.outfile import OutFile
from kvtrace.units import MS_NS
from kvtrace.whatif.accesses import COMPUTED, FOUND, GENERATED, check_requests, served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from kvtrace.reader import Columns, Trace

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

    Raises TraceError for a trace that doesn't know them, or of blocks that don't divide 512 tokens.
    """
    if not out.name.endswith(SUFFIXES):
        raise UsageError("unknown kind of output", where=out, accepted=", ".join(SUFFIXES))
    check_requests(trace)
    block_tokens = _block_tokens(trace)
    reverse = trace.header.config.get("touch_order", "tail-first") == "tail-first"
    requests = _Requests(trace, reverse=reverse)
    with OutFile(out, force=options.force) as file:
        for time_ns, prompt, generated in requests.complete():
            file.write(_line(time_ns, prompt, generated * block_tokens, block_tokens))
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


def _line(time_ns: int, prompt: NDArray[np.uint64], output_tokens: int, block_tokens: int) -> bytes:
    """Return a request's line.

    An id is that of the last of its blocks, which stands for all before it: a block's identity is
    that of its prefix.
    """
    each = BLOCK_TOKENS // block_tokens
    ends = np.minimum(np.arange(each - 1, len(prompt) + each - 1, each), len(prompt) - 1)
    fields = {
        "timestamp": time_ns // MS_NS,
        "input_length": len(prompt) * block_tokens,
        "output_length": output_tokens,
        "hash_ids": prompt[ends].tolist(),
    }
    return json.dumps(fields).encode() + b"\n"


class _Requests:
    """Puts a trace's requests together from rows that stand among those of others.

    A first pass learns which row is each one's last; memory grows with the number of requests, and
    with the rows of those that run at the same time.
    """

    def __init__(self, trace: Trace, *, reverse: bool) -> None:
        self._trace, self._reverse = trace, reverse
        self._numbers = Interner()
        last = np.zeros(1024, np.int64)
        seen = 0
        for rows in served(trace):
            number = self._numbers.intern(rows["request"].view(np.int64))
            if len(self._numbers) > len(last):
                last = np.pad(last, (0, len(self._numbers)))
            last[number] = np.arange(seen, seen + len(number))  # of several, the last one stays
            seen += len(number)
        self._last = last[: len(self._numbers)]
        self.count = 0

    def complete(self) -> Iterator[tuple[int, NDArray[np.uint64], int]]:
        """Yield time of arrival, blocks of the prompt and how many blocks were generated."""
        seen, first = 0, 0
        waiting: Columns = {}
        for rows in served(self._trace):
            rows["number"] = self._numbers.intern(rows["request"].view(np.int64))
            seen += len(rows["number"])
            joined = _joined(waiting, rows)
            end = first + int(np.argmax(np.append(self._last[first:] >= seen, True)))
            done = joined["number"] < end
            yield from self._grouped({name: values[done] for name, values in joined.items()})
            waiting = {name: values[~done] for name, values in joined.items()}
            first = end

    def _grouped(self, rows: Columns) -> Iterator[tuple[int, NDArray[np.uint64], int]]:
        order = np.lexsort((np.arange(len(rows["number"])), rows["number"]))
        number = rows["number"][order]
        begins = np.flatnonzero(np.diff(number, prepend=-1))
        for some in np.split(order, begins[1:]) if len(order) else []:
            kind, block = rows["kind"][some], rows["block"][some]
            prompt = [_distinct(block[kind == of], self._reverse) for of in range(GENERATED)]
            generated = len(np.unique(block[kind == GENERATED]))
            # A block that was found may have had to go and be stored anew: it is asked for once.
            prompt[COMPUTED] = prompt[COMPUTED][~np.isin(prompt[COMPUTED], prompt[FOUND])]
            blocks = np.concatenate(prompt)
            if len(blocks):
                self.count += 1
                yield int(rows["time"][some[0]]), blocks, generated


def _joined(before: Columns, behind: Columns) -> Columns:
    if not before:
        return behind
    return {name: np.concatenate((before[name], behind[name])) for name in behind}


def _distinct(blocks: NDArray[np.uint64], reverse: bool) -> NDArray[np.uint64]:
    """Return each block once, in order of first appearance, which may be from tail to head."""
    _, firsts = np.unique(blocks, return_index=True)
    kept = blocks[np.sort(firsts)]
    return kept[::-1] if reverse else kept
