"""Turns of sessions, for layouts whose objects are turns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kvtrace.requests.request import Ragged

if TYPE_CHECKING:
    from numpy.typing import NDArray


class TurnHistory:
    """The tokens that each turn added to its session's context.

    A prompt that isn't longer than the one before it didn't grow out of it: what follows is a
    session of its own.
    """

    def __init__(self) -> None:
        self._turns: dict[int, tuple[int, list[int]]] = {}
        self._sessions = 0

    def follow(
        self,
        stream: NDArray[np.int64],
        input_tokens: NDArray[np.int64],
        last_turn: NDArray[np.bool_],
    ) -> tuple[NDArray[np.int64], Ragged]:
        """Return the session of each request and the tokens of its turns, itself included.

        `stream`: what the requests of a growing context have in common.
        """
        sessions = np.empty(len(stream), np.int64)
        added: list[int] = []
        counts = np.empty(len(stream), np.int64)
        columns = zip(stream.tolist(), input_tokens.tolist(), last_turn.tolist(), strict=True)
        for row, (name, tokens, last) in enumerate(columns):
            number, turns = self._turns.get(name, (-1, []))
            grown = tokens - sum(turns)
            if number < 0 or grown <= 0:
                number, turns, grown = self._sessions, [], tokens
                self._sessions += 1
            turns.append(grown)
            self._turns[name] = (number, turns)
            sessions[row], counts[row] = number, len(turns)
            added.extend(turns)
            if last:
                del self._turns[name]
        return sessions, Ragged.from_counts(counts, np.array(added, np.int64))

    def forget(self) -> None:
        """Let no later request follow those already there."""
        self._turns.clear()
