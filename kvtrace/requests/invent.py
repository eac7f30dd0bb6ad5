"""Sessions invented for files that don't tell of any reuse."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.compiled.jit import compiled
from kvtrace.requests.source_config import GENERATION_NS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from kvtrace.requests.rows import Piece

WAITING = 256
"""Sessions that wait for their next turn; the oldest is forgotten. Part of what a seed means."""
_SESSION, _TURN, _CONTEXT, _READY = range(4)
_STREAM = 23


def sessions(pieces: Iterator[Piece], probability: float, seed: int) -> Iterator[Piece]:
    """Yield the requests, some of them made further turns of earlier ones.

    After each request its session goes on with `probability`. It waits; the first later request
    whose prompt is longer than the session's context, and which comes when the answer has been
    generated at 30 ms a token, is its next turn. Where several wait, which one is drawn.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_STREAM,)))
    waiting = np.full((WAITING, 4), -1)
    state = np.zeros(2, np.int64)
    for piece in pieces:
        rows = piece.rows
        # One row of draws per request, so that the size of pieces doesn't show.
        draws = rng.random((len(rows), 2))
        goes_on = draws[:, 0] < probability
        start = (draws[:, 1] * WAITING).astype(np.int64)
        ready_ns = rows.time_ns + rows.output_tokens * GENERATION_NS["realistic"]
        session, turn = np.empty_like(start), np.empty_like(start)
        _assign(
            np.stack((rows.time_ns, rows.input_tokens, rows.output_tokens, ready_ns, start)),
            goes_on, waiting, state, session, turn,
        )  # fmt: skip
        yield replace(piece, rows=replace(rows, session=session, turn=turn, last_turn=~goes_on))


@compiled
def _assign(
    columns: NDArray[np.int64],
    goes_on: NDArray[np.bool_],
    waiting: NDArray[np.int64],
    state: NDArray[np.int64],
    session: NDArray[np.int64],
    turn: NDArray[np.int64],
) -> None:
    """Fill in session and turn of each request. `state`: next session, next place to wait."""
    for i in range(session.shape[0]):
        time_ns, prompt, answer = columns[0, i], columns[1, i], columns[2, i]
        ready_ns, start = columns[3, i], columns[4, i]
        place = -1
        for k in range(WAITING):
            at = (start + k) % WAITING
            fits = waiting[at, _SESSION] >= 0 and waiting[at, _CONTEXT] < prompt
            if fits and waiting[at, _READY] <= time_ns:
                place = at
                break
        if place >= 0:
            session[i], turn[i] = waiting[place, _SESSION], waiting[place, _TURN] + 1
            waiting[place, _SESSION] = -1
        else:
            session[i], turn[i] = state[0], 0
            state[0] += 1
        if goes_on[i]:
            if place < 0:
                place = state[1]
                state[1] = (state[1] + 1) % WAITING
            waiting[place, _SESSION], waiting[place, _TURN] = session[i], turn[i]
            waiting[place, _CONTEXT], waiting[place, _READY] = prompt + answer, ready_ns
