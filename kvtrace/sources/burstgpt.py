"""BurstGPT's traces: CSV with seconds, request and response tokens; no reuse is known."""

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
TIME, PROMPT, GENERATED = "Timestamp", "Request tokens", "Response tokens"


def recognises(start: bytes) -> bool:
    """Return whether a file begins with the header of such a trace."""
    return csvrows.has_columns(start, (TIME, PROMPT, GENERATED))


def _pieces(context: SourceContext, remarks: Told) -> Iterator[Piece]:
    """Yield the requests that were answered; a later layout's other columns don't matter."""
    count = 0
    for path in context.inputs:
        for lines, frame in csvrows.read(path, (TIME, PROMPT, GENERATED)):
            time_ns = csvrows.seconds_ns(frame, TIME, lines)
            inputs = csvrows.tokens(frame, PROMPT, lines)
            outputs = csvrows.tokens(frame, GENERATED, lines)
            line = lines.first + np.arange(len(inputs))
            failed, empty = outputs == 0, (outputs > 0) & (inputs == 0)
            for reason, which in (("failed: 0 response tokens", failed), ("no prompt", empty)):
                if which.any():
                    remarks.drop(reason, int(which.sum()))
            some = np.flatnonzero(~failed & ~empty)
            rows = alone(count, time_ns, inputs, outputs).take(some)
            yield Piece(lines.where, line[some], rows)
            count += len(inputs)


def create(context: SourceContext) -> FileSource:
    """Return the source. Raises UsageError without an input."""
    return lengths_source(context, partial(_pieces, context))
