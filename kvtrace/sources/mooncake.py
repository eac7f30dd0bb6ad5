"""Mooncake's request traces: JSONL with timestamp (ms), lengths and 512-token hash ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kvtrace.inputs import jsonlines
from kvtrace.inputs.rows import MAX_TIME_NS, FileRows, Piece, alone
from kvtrace.inputs.source import FILE_KEYS, FileSource, Told, need_input
from kvtrace.units import MS_NS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvtrace.inputs.lines import Lines
    from kvtrace.sources import SourceContext

KEYS = FILE_KEYS
BLOCK_TOKENS = 512


def parse(piece: Lines) -> FileRows:
    """Return the requests in `piece`. Raises TraceError that names the file and the line."""
    numbers = np.empty((len(piece.lines), 3), np.int64)
    ids, places = [], []
    for index, (place, fields) in enumerate(jsonlines.objects(piece)):
        numbers[index] = (
            jsonlines.whole(fields, "timestamp", place, most=MAX_TIME_NS // MS_NS) * MS_NS,
            tokens := jsonlines.whole(fields, "input_length", place, least=1),
            jsonlines.whole(fields, "output_length", place),
        )
        needed = -(-tokens // BLOCK_TOKENS)
        places.append(place)
        ids.append(
            jsonlines.hash_ids(
                fields, place, needed=needed, block_tokens=BLOCK_TOKENS, of="input_length"
            )
        )
    time_ns, inputs, outputs = (column.copy() for column in numbers.T)
    return alone(0, time_ns, inputs, outputs, jsonlines.id_lists(ids, places))


def _pieces(context: SourceContext) -> Iterator[Piece]:
    """Yield the requests; whose conversation they belong to isn't told."""
    count = 0
    for piece, rows in jsonlines.parsed(context.inputs, parse, context.workers):
        rows.session[:] += count
        count += len(rows)
        yield Piece(piece.where, piece.first + np.arange(len(rows)), rows)


def create(context: SourceContext) -> FileSource:
    """Return the source: ids are global and prefix-chained, the last one may be partial.

    Raises UsageError without an input.
    """
    need_input(context, "FILE.jsonl")
    return FileSource(
        context, KEYS, lambda: _pieces(context), block_tokens=BLOCK_TOKENS, told=Told()
    )
