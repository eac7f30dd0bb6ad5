"""Users who are in the middle of a conversation when a recording begins."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kvtrace.requests.sessions import Sessions

_START_STREAM = 25
ONE_TOKEN = 1


def shortened(
    offset_ns: NDArray[np.int64], think_ns: NDArray[np.int64], idle_max_ns: int | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return starts and think times of one conversation, no start more than a time after the last.

    What a pause between two starts has too much is taken off the later ones, and off the think
    time. None: they stay.
    """
    if idle_max_ns is None:
        return offset_ns, think_ns
    gaps = np.diff(offset_ns, prepend=offset_ns[:1])
    excess = np.maximum(0, gaps - idle_max_ns)
    return offset_ns - np.cumsum(excess), np.maximum(0, think_ns - excess)


def begun(session: Sessions, ratio: float, warmup_requests: int) -> Sessions:
    """Return one session from the request at `ratio` of its recorded time on, at least its last.

    The requests before it, as many as `warmup_requests`, come first: at once after each other, each
    answered with one token.
    """
    assert session.offset_ns is not None
    count = len(session.offset_ns)
    first = int(np.searchsorted(session.offset_ns, ratio * session.offset_ns[-1]))
    first = min(first, count - 1)
    warm = min(warmup_requests, first)
    rows = np.arange(first - warm, count)
    think_ns, output_tokens = session.think_ns[rows], session.output_tokens[rows]
    think_ns[:warm] = 0
    output_tokens[:warm] = np.minimum(output_tokens[:warm], ONE_TOKEN)
    return replace(
        session,
        turns=np.array([len(rows)]),
        input_tokens=session.input_tokens[rows],
        output_tokens=output_tokens,
        think_ns=think_ns,
        stream=session.stream[rows],
        ids=None if session.ids is None else session.ids.take(rows),
        offset_ns=session.offset_ns[rows],
        lineage=None if session.lineage is None else session.lineage.take(rows),
    )


def ratio_of(user: int, limits: tuple[float, float], seed: int) -> float:
    """Return where in the first conversation a user is: drawn, even between the limits."""
    seeds = np.random.SeedSequence(seed, spawn_key=(_START_STREAM, user))
    return float(np.random.default_rng(seeds).uniform(*limits))
