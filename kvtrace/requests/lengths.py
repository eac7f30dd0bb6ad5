"""A source of requests of which only arrival and lengths are known."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvtrace.requests import invent
from kvtrace.requests.source import FILE_KEYS, FileSource, Told, need_input

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kvtrace.requests.rows import Piece
    from kvtrace.sources import SourceContext

LENGTHS_KEYS = FILE_KEYS | {"invent_sessions"}
NO_REUSE = "the file doesn't tell of reuse: each request is a session of its own"


def lengths_source(context: SourceContext, pieces: Callable[[Told], Iterator[Piece]]) -> FileSource:
    """Return the source. Raises UsageError without an input."""
    need_input(context, "FILE.csv")
    probability, remarks = context.config.invent_sessions, Told()
    if probability is None:
        remarks.notes.append(NO_REUSE)
    else:
        remarks.invented.append(
            f"sessions: each goes on after a turn with probability {probability}"
        )

    def read() -> Iterator[Piece]:
        pieces_read = pieces(remarks)
        return (
            pieces_read
            if probability is None
            else invent.sessions(pieces_read, probability, context.seed)
        )

    return FileSource(
        context,
        LENGTHS_KEYS,
        read,
        block_tokens=None,
        remarks=remarks,
        sessions_known=probability is not None,
    )
