"""Tasks of an engine as records: a record per key, built for many tasks at once."""

from __future__ import annotations

from itertools import chain, groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.capture.identity import Known
from kvtrace.capture.spool import RECORD, UNKNOWN_RANK
from kvtrace.capture.words import DELETE, LOOKUP, OBJECT, PROMOTE
from kvtrace.trace.schema import MAX_SIZE_BYTES, MAX_TIME_NS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kvtrace.capture.identity import Identities

Task = tuple[Any, ...]
"""The arguments of `Recorder.task` in their order."""
OP, KEYS, REQUEST = 0, 5, 8
MOST = {
    "op": LOOKUP, "tier": OBJECT, "phase": PROMOTE, "size": MAX_SIZE_BYTES,
    "submit": MAX_TIME_NS, "complete": MAX_TIME_NS,
}  # fmt: skip
"""The largest value that an import takes; 0 is the smallest."""


def task_of(
    op: int,
    tier: int,
    phase: int,
    submit_ns: Any,
    complete_ns: int,
    keys: Sequence[Any],
    sizes: Any,
    errors: Any = 0,
    request: Any = None,
    rank: Any = None,
    block: Any = None,
) -> Task:
    """Return a task as the queue holds it; the arguments are those of `Recorder.task`."""
    return (op, tier, phase, submit_ns, complete_ns, keys, sizes, errors, request, rank, block)


class Table:
    """Makes records of tasks; `join`, if given, names the request of the keys of one without."""

    def __init__(self, identities: Identities) -> None:
        self.identities = identities
        self.join: Callable[[Sequence[Any]], Any] | None = None

    def records(self, tasks: Sequence[Task], first_batch: int) -> np.ndarray:
        """Return the records of tasks; their numbers count from `first_batch` on.

        Raises whatever an engine's objects raise when they are looked at, and ValueError for what
        no import takes.
        """
        op, tier, phase, submit, complete, keys, sizes, errors, request, rank, block = zip(
            *tasks, strict=True
        )
        counts = np.fromiter(map(len, keys), np.int64, len(keys))
        rows = np.zeros(int(counts.sum()), RECORD)
        for name, values in (("op", op), ("tier", tier), ("phase", phase), ("complete", complete)):
            rows[name] = np.repeat(np.array(values, RECORD[name]), counts)
        for name, values in (("submit", submit), ("size", sizes), ("error", errors)):
            rows[name] = _spread(values, counts, RECORD[name])
        _check(rows)
        # Of a request that was heard of late, the tasks taken before know it now.
        asked = request if self.join is None else map(self._request, tasks)
        requests = list(map(self.identities.request, asked))
        rows["request"] = np.repeat(np.array(requests, np.uint64), counts)
        rows["batch"] = np.repeat(np.arange(first_batch, first_batch + len(tasks)), counts)
        rows["position"] = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        self._name(rows, keys)
        self._rename(rows, rank, block, counts)
        return rows

    def joined(self, task: Task) -> Task:
        """Return a task with the request that its keys are known for by now, if it has none."""
        request = self._request(task)
        if request is task[REQUEST]:
            return task
        return (*task[:REQUEST], request, *task[REQUEST + 1 :])

    def _request(self, task: Task) -> Any:
        given, keys = task[REQUEST], task[KEYS]
        # A deletion is on no request's behalf; who knew places of keys knew the request.
        if given is not None or self.join is None or task[OP] == DELETE or type(keys) is Known:
            return given
        return self.join(keys)

    def _name(self, rows: np.ndarray, keys: Sequence[Sequence[Any]]) -> None:
        """Fill in what the keys themselves tell: key, block, rank."""
        places: list[int] = []
        for known, several in groupby(keys, lambda some: type(some) is Known):
            every = list(chain.from_iterable(several))
            places += every if known else self.identities.places(every)
        index = np.array(places, np.int64)
        named = self.identities.table[index]
        for name in ("key", "block", "rank"):
            rows[name] = named[name]

    def _rename(
        self, rows: np.ndarray, ranks: Sequence[Any], blocks: Sequence[Any], counts: np.ndarray
    ) -> None:
        """Fill in the ranks and blocks of tasks that give them."""
        if any(rank is not None for rank in ranks):
            given = [UNKNOWN_RANK if rank is None else rank for rank in _values(ranks, counts)]
            named = np.array(given, RECORD["rank"])  # raises for what doesn't fit
            rows["rank"] = np.where(named == UNKNOWN_RANK, rows["rank"], named)
        if any(block is not None for block in blocks):
            for row, block in enumerate(_values(blocks, counts)):
                if block is not None:
                    rows["block"][row] = self.identities.block(block)


def _check(rows: np.ndarray) -> None:
    for name, most in MOST.items():
        if len(rows) and not 0 <= rows[name].min() <= rows[name].max() <= most:
            raise ValueError(f"a task's {name} is out of range")


def _spread(values: Sequence[Any], counts: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return a value per row, of tasks that give one for all their rows or one each."""
    if set(map(type, values)) == {int}:
        return np.repeat(np.array(values, dtype), counts)
    return np.array(_values(values, counts), dtype)


def _values(values: Sequence[Any], counts: np.ndarray) -> list[Any]:
    spread: list[Any] = []
    for value, count in zip(values, counts.tolist(), strict=True):
        if not isinstance(value, list):
            expand = getattr(value, "expand", None)
            value = [value] * count if expand is None else expand(count)
        if len(value) != count:
            raise ValueError("a task has another number of values than keys")
        spread += value
    return spread
