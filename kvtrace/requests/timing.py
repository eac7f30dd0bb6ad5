"""Recorded times of requests, or think times after the answer before them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from kvtrace.errors import UsageError
from kvtrace.requests.clock import in_order
from kvtrace.requests.rows import join
from kvtrace.requests.sessions import Sessions, SessionSource
from kvtrace.requests.source import FileSource, Told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from kvtrace.requests.rows import Piece
    from kvtrace.sources import SourceContext

Timing = Literal["recorded", "think"]
OVERLAPPING = "requests came before the answer to the one before them had ended: they follow it"


def chosen(context: SourceContext, default: Timing, remarks: Told) -> Timing:
    """Return the timing that holds, and let the header state it."""
    timing = context.config.timing or default
    remarks.parameters["timing"] = timing
    return timing


def timed_source(
    context: SourceContext,
    keys: frozenset[str],
    pieces: Callable[[], Iterator[Piece]],
    *,
    block_tokens: int,
    remarks: Told,
    sessions_known: bool,
) -> FileSource | SessionSource:
    """Return the source of files that tell when requests came and when their answers ended.

    By default at recorded times; with think times a session begins when it was recorded. Raises
    UsageError for think times without sessions, and for what has no effect on them.
    """
    if chosen(context, "recorded", remarks) == "recorded":
        return FileSource(
            context, keys, pieces, block_tokens=block_tokens, remarks=remarks,
            sessions_known=sessions_known,
        )  # fmt: skip
    if not sessions_known:
        raise UsageError(
            "the requests name no sessions: no request follows another", where="--timing",
            got="think", accepted="recorded",
        )  # fmt: skip
    if context.config.dequantise is not None:
        raise UsageError("has no effect on think times", where="source.dequantise")
    return SessionSource(
        context, keys, lambda: iter([grouped(pieces(), remarks)]), block_tokens=block_tokens,
        remarks=remarks, begins=True,
    )  # fmt: skip


def grouped(pieces: Iterable[Piece], remarks: Told) -> Sessions:
    """Return the sessions of requests that come in order of arrival, numbered as they begin."""
    rows = join(list(in_order(pieces)))
    rows = rows.take(np.argsort(rows.session, kind="stable"))
    assert rows.end_ns is not None
    first = np.append(True, np.diff(rows.session) > 0)
    gap_ns = rows.time_ns - np.append(0, rows.end_ns[:-1])
    early = int((~first & (gap_ns < 0)).sum())
    if early:
        remarks.notes.append(f"{early:,} {OVERLAPPING}")
    begin_ns = rows.time_ns[first]
    turns = np.diff(np.append(np.flatnonzero(first), len(first)))
    return Sessions(
        turns=turns,
        input_tokens=rows.input_tokens,
        output_tokens=rows.output_tokens,
        think_ns=np.where(first, 0, np.maximum(gap_ns, 0)),
        stream=np.zeros(len(rows), np.int64),
        ids=rows.ids,
        begin_ns=begin_ns,
        offset_ns=rows.time_ns - np.repeat(begin_ns, turns),
    )
