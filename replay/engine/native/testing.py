"""Hand-made columns for tests and benchmarks of engines: no planner needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from replay.ops.columns import SECTOR_BYTES, Ops
from replay.ops.contract import Action, power_of_two

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
    clock: ArrayLike | None = None,
) -> Ops:
    """Return a ring that holds `count` ops; scalars are repeated, keys default to op numbers.

    `edges` are pairs (predecessor, successor) of ops, each pair at most once; an op's predecessors
    are in the order of the pairs. `length_bytes` are multiples of 512.
    """
    pairs = np.asarray(edges, np.int64).reshape(-1, 2)
    pairs = pairs[np.argsort(pairs[:, 1], kind="stable")]
    waits = np.bincount(pairs[:, 1], minlength=count)
    lengths = _filled(length_bytes, np.uint64, count)
    if (lengths % np.uint64(SECTOR_BYTES)).any():
        raise ValueError("length_bytes: takes multiples of 512")
    ops = Ops.empty(power_of_two(count), power_of_two(len(pairs)), clocks=clock is not None)
    columns: dict[str, NDArray[np.generic]] = {
        "due_ns": _filled(due_ns, np.int64, count),
        "lane": _filled(lane, np.uint8, count),
        "action": _filled(action, np.uint8, count),
        "offset_bytes": _filled(offset_bytes, np.uint64, count),
        "length_sectors": (lengths // np.uint64(SECTOR_BYTES)).astype(np.uint32),
        "key": _filled(np.arange(count) if key is None else key, np.uint64, count),
        "sector": _filled(sector, np.uint32, count),
        "generation": _filled(generation, np.uint32, count),
        "arena_bytes": _filled(arena_bytes, np.uint64, count),
        "edge_begin": (np.cumsum(waits) - waits).astype(np.uint32),
        "wait_count": waits.astype(np.uint16),
    }
    if clock is not None:
        columns["clock"] = _filled(clock, np.uint32, count)
    for name, column in columns.items():
        getattr(ops, name)[:count] = column
    ops.edges[: len(pairs)] = pairs[:, 0]
    return ops
