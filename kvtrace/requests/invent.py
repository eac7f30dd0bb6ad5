"""Sessions invented for files that don't tell of any reuse."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.native.core import function
from kvtrace.native.library import INT, POINTER, contiguous
from kvtrace.requests.source_config import GENERATION_NS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvtrace.requests.rows import Piece

WAITING = 256
"""Sessions that wait for their next turn; the oldest is forgotten. Part of what a seed means."""
_STREAM = 23


class InventingStruct(ctypes.Structure):
    """`struct kv_inventing` of `invent.c`."""

    _fields_ = (
        ("waiting", ctypes.c_int64 * 4 * WAITING),
        ("next_session", INT),
        ("next_place", INT),
    )


class RowsStruct(ctypes.Structure):
    """`struct kv_invented_rows` of `invent.c`."""

    _fields_ = tuple(
        (name, POINTER)
        for name in (
            "time_ns", "prompt", "answer", "ready_ns", "start", "goes_on", "session", "turn",
        )
    )  # fmt: skip


_invent = function("kv_invent", POINTER, POINTER, INT)


def sessions(pieces: Iterator[Piece], probability: float, seed: int) -> Iterator[Piece]:
    """Yield the requests, some of them made further turns of earlier ones.

    After each request its session goes on with `probability`. It waits; the first later request
    whose prompt is longer than the session's context, and which comes when the answer has been
    generated at 30 ms a token, is its next turn. Where several wait, which one is drawn.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_STREAM,)))
    state = InventingStruct()
    for place in state.waiting:
        place[:] = (-1,) * 4
    for piece in pieces:
        rows = piece.rows
        # One row of draws per request, so that the size of pieces doesn't show.
        draws = rng.random((len(rows), 2))
        goes_on = draws[:, 0] < probability
        start = (draws[:, 1] * WAITING).astype(np.int64)
        ready_ns = rows.time_ns + rows.output_tokens * GENERATION_NS["realistic"]
        session, turn = np.empty_like(start), np.empty_like(start)
        columns = [
            contiguous(each, np.int64)
            for each in (rows.time_ns, rows.input_tokens, rows.output_tokens, ready_ns, start)
        ]
        assert {len(column) for column in columns} == {len(rows)}
        pointers = [each.ctypes.data for each in (*columns, goes_on, session, turn)]
        _invent(ctypes.byref(state), ctypes.byref(RowsStruct(*pointers)), len(rows))
        yield replace(piece, rows=replace(rows, session=session, turn=turn, last_turn=~goes_on))
