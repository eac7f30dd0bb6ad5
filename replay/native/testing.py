"""Hand-made columns for tests and benchmarks of engines: no planner needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from replay.loop import Action, Ops

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


Scalar = TypeVar("Scalar", bound=np.generic)


def _filled(value: ArrayLike, dtype: type[Scalar], count: int) -> NDArray[Scalar]:
    return np.ascontiguousarray(np.broadcast_to(np.asarray(value, dtype), (count,)))


def make_ops(
    count: int,
    *,
    edges: ArrayLike = (),
    due_ns: ArrayLike = 0,
    lane: ArrayLike = 0,
    action: ArrayLike = Action.READ,
    offset_bytes: ArrayLike = 0,
    length_bytes: ArrayLike = 4096,
    key: ArrayLike | None = None,
    sector: ArrayLike = 0,
    generation: ArrayLike = 0,
    arena_bytes: ArrayLike = 0,
) -> Ops:
    """Return columns of `count` ops; scalars are repeated, keys default to row numbers.

    `edges` are pairs (predecessor, successor) of rows, each pair at most once.
    """
    pairs = np.asarray(edges, np.int64).reshape(-1, 2)
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    successor_begin = np.zeros(count + 1, np.uint64)
    np.cumsum(np.bincount(pairs[:, 0], minlength=count), out=successor_begin[1:])
    return Ops(
        due_ns=_filled(due_ns, np.int64, count),
        lane=_filled(lane, np.uint8, count),
        action=_filled(action, np.uint8, count),
        offset_bytes=_filled(offset_bytes, np.uint64, count),
        length_bytes=_filled(length_bytes, np.uint64, count),
        key=_filled(np.arange(count) if key is None else key, np.uint64, count),
        sector=_filled(sector, np.uint32, count),
        generation=_filled(generation, np.uint32, count),
        arena_bytes=_filled(arena_bytes, np.uint64, count),
        wait_count=np.bincount(pairs[:, 1], minlength=count).astype(np.uint32),
        successor_begin=successor_begin,
        successors=pairs[:, 1].astype(np.uint32),
    )
