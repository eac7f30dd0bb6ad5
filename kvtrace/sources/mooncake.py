"""Mooncake's request traces: JSONL with timestamp (ms), lengths and hash ids of 512 tokens."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.requests import jsonlines
from kvtrace.requests.jsonscan import Wanted, scan
from kvtrace.requests.rows import MAX_TIME_NS, MAX_TOKENS, FileRows, Piece, alone
from kvtrace.requests.source import BLOCK_OPTION, FILE_KEYS, FileSource, Told, need_input
from kvtrace.units import MS_NS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvtrace.requests.lines import Lines
    from kvtrace.sources import SourceContext

KEYS = FILE_KEYS | {"block_tokens"}
BLOCK_TOKENS = 512
"""Of an id, unless `source.block_tokens` says another: some tools write the format with others."""


def recognises(start: bytes) -> bool:
    """Return whether a file begins with a request of such a trace."""
    return start.lstrip().startswith(b"{") and jsonlines.has_keys(
        start, ("timestamp", "input_length", "output_length", "hash_ids"), without=("chat_id",)
    )


WANTED = (
    Wanted("timestamp", "number"),
    Wanted("input_length", "number"),
    Wanted("output_length", "number"),
    Wanted("hash_ids", "list"),
)


def parse(piece: Lines, block_tokens: int = BLOCK_TOKENS) -> FileRows:
    """Return the requests in `piece`. Raises TraceError that names the file and the line.

    Lines are scanned; where one isn't plain (a fraction of a millisecond), all are parsed.
    """
    scanned = scan(piece.lines, WANTED)
    time_ms, inputs, outputs = (scanned.numbers[each.path] for each in WANTED[:3])
    plain = scanned.is_plain & (time_ms >= 0) & (time_ms <= MAX_TIME_NS // MS_NS)
    plain &= (inputs >= 1) & (inputs <= MAX_TOKENS) & (outputs >= 0) & (outputs <= MAX_TOKENS)
    plain &= scanned.ids.counts == -(-inputs // block_tokens)
    if not plain.all():
        return parse_exactly(piece, block_tokens)
    return alone(0, time_ms * MS_NS, inputs, outputs, scanned.ids)


def parse_exactly(piece: Lines, block_tokens: int) -> FileRows:
    """Return the requests in `piece`. Raises TraceError that names the file and the line."""
    numbers = np.empty((len(piece.lines), 3), np.int64)
    ids, places = [], []
    for index, (place, fields) in enumerate(jsonlines.objects(piece)):
        numbers[index] = (
            jsonlines.ms_ns(fields, "timestamp", place),
            tokens := jsonlines.whole(fields, "input_length", place, least=1),
            jsonlines.whole(fields, "output_length", place),
        )
        places.append(place)
        ids.append(
            jsonlines.hash_ids(
                fields, place, tokens, block_tokens, of="input_length", option=BLOCK_OPTION
            )
        )
    time_ns, inputs, outputs = (column.copy() for column in numbers.T)
    return alone(0, time_ns, inputs, outputs, jsonlines.id_lists(ids, places))


def _pieces(context: SourceContext, block_tokens: int) -> Iterator[Piece]:
    """Yield the requests; whose conversation they belong to isn't told."""
    count, reader = 0, partial(parse, block_tokens=block_tokens)
    for piece, rows in jsonlines.parsed(context.inputs, reader, context.workers):
        rows.session[:] += count
        count += len(rows)
        yield Piece(piece.where, piece.first + np.arange(len(rows)), rows)


def create(context: SourceContext) -> FileSource:
    """Return the source: ids are global and prefix-chained, the last one may be partial.

    Raises UsageError without an input.
    """
    need_input(context, "FILE.jsonl")
    block_tokens = context.config.block_tokens or BLOCK_TOKENS
    return FileSource(
        context,
        KEYS,
        lambda: _pieces(context, block_tokens),
        block_tokens=block_tokens,
        remarks=Told(),
    )
