"""Azure's LLM inference traces: CSV with date, prompt and generated tokens; no reuse is known."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.requests import csvrows
from kvtrace.requests.lengths import LENGTHS_KEYS, lengths_source
from kvtrace.requests.rows import Piece, alone

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvtrace.requests.source import FileSource, Told
    from kvtrace.sources import SourceContext

KEYS = LENGTHS_KEYS
TIME, PROMPT, GENERATED = "TIMESTAMP", "ContextTokens", "GeneratedTokens"


def recognises(start: bytes) -> bool:
    """Return whether a file begins with the header of such a trace."""
    return csvrows.has_columns(start, (TIME, PROMPT, GENERATED))


def _pieces(context: SourceContext, remarks: Told) -> Iterator[Piece]:
    count = 0
    for path in context.inputs:
        for lines, frame in csvrows.read(path, (TIME, PROMPT, GENERATED)):
            time_ns = csvrows.dates_ns(frame, TIME, lines)
            inputs = csvrows.tokens(frame, PROMPT, lines)
            outputs = csvrows.tokens(frame, GENERATED, lines)
            line, some = lines.first + np.arange(len(inputs)), np.flatnonzero(inputs)
            if len(some) < len(inputs):
                remarks.drop("no prompt tokens", len(inputs) - len(some))
            rows = alone(count, time_ns, inputs, outputs).take(some)
            yield Piece(lines.where, line[some], rows)
            count += len(inputs)


def create(context: SourceContext) -> FileSource:
    """Return the source. Raises UsageError without an input."""
    return lengths_source(context, partial(_pieces, context))
