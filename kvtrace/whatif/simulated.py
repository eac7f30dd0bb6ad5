"""Hit counts of policies that libCacheSim simulates, in a process of their own.

The library ends the process that it is in where it can't make a cache (of few blocks, say).
"""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from kvtrace.errors import TargetError

if TYPE_CHECKING:
    from collections.abc import Sequence

LIBRARY = "libcachesim"


def need_library() -> None:
    """Raise TargetError without libCacheSim."""
    try:
        spec = find_spec(LIBRARY)
    except ValueError:  # it was made unavailable
        spec = None
    if spec is None:
        raise TargetError(
            "libCacheSim isn't installed", where="--policies", hint="pip install kvtrace[whatif]"
        )


def hits(path: str, policy: str, room: int, distinct: int, touches: int) -> int:
    """Return the hits of a cache of `room` blocks among the touches in a file of its format."""
    import libcachesim

    reader = libcachesim.TraceReader(path, libcachesim.TraceType.ORACLE_GENERAL_TRACE)
    made: Any = getattr(libcachesim, policy)
    cache = made(cache_size=room, hashpower=max(4, distinct.bit_length()))
    missed, _ = cache.process_trace(reader)
    hits: int = round(touches * (1 - missed))
    return hits


def hits_apart(
    path: str, policy: str, rooms: Sequence[int], distinct: int, touches: int
) -> list[int | None]:
    """Return `hits` for each number of blocks, None where the library gives up."""
    sizes: list[int | None] = []
    while len(sizes) < len(rooms):
        with ProcessPoolExecutor(
            1, mp_context=multiprocessing.get_context("spawn"), initializer=_be_quiet
        ) as pool:
            try:
                for room in rooms[len(sizes) :]:
                    task = pool.submit(hits, path, policy, room, distinct, touches)
                    sizes.append(task.result())
            except BrokenProcessPool:
                sizes.append(None)
    return sizes


def _be_quiet() -> None:
    """Let what the library says when it gives up go nowhere: it is told by the outcome."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
