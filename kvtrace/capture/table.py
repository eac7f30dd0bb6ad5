"""Tasks of an engine as records: a record per key, built for many tasks at once."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.capture.spool import RECORD, UNKNOWN_RANK

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kvtrace.capture.identity import Identities

Task = tuple[Any, ...]
"""The arguments of `Recorder.task` in their order."""
KEYS, REQUEST = 5, 8


class Table:
    """Makes records of tasks; `join`, if given, names the request of a task's keys."""

    def __init__(self, identities: Identities) -> None:
        self.identities = identities
        self.join: Callable[[Sequence[Any]], Any] | None = None

    def records(self, tasks: Sequence[Task], first_batch: int) -> np.ndarray:
        """Return the records of tasks; their numbers count from `first_batch` on.

        Raises Exception: whatever an engine's objects raise when they are looked at.
        """
        op, tier, phase, submit, complete, keys, sizes, errors, _, rank, block = zip(
            *tasks, strict=True
        )
        counts = np.fromiter(map(len, keys), np.int64, len(keys))
        every_key = list(chain.from_iterable(keys))
        rows = np.zeros(len(every_key), RECORD)
        for name, values in (("op", op), ("tier", tier), ("phase", phase), ("complete", complete)):
            rows[name] = np.repeat(np.array(values, RECORD[name]), counts)
        for name, values in (("submit", submit), ("size", sizes), ("error", errors)):
            rows[name] = _spread(values, counts, RECORD[name])
        rows["request"] = np.repeat(np.array(self._requests(tasks), np.uint64), counts)
        rows["batch"] = np.repeat(np.arange(first_batch, first_batch + len(tasks)), counts)
        rows["position"] = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        self._name(rows, every_key, block, counts)
        rows["rank"] = self._ranks(rank, every_key, counts)
        return rows

    def _requests(self, tasks: Sequence[Task]) -> list[int]:
        join, request = self.join, self.identities.request
        if join is None:
            return [request(task[REQUEST]) for task in tasks]
        return [
            request(join(task[KEYS]) if task[REQUEST] is None else task[REQUEST]) for task in tasks
        ]

    def _name(
        self, rows: np.ndarray, keys: list[Any], blocks: Sequence[Any], counts: np.ndarray
    ) -> None:
        """Fill in keys and blocks."""
        pairs = self.identities.keys(keys)
        rows["key"] = np.array([pair[0] for pair in pairs], np.uint64)
        rows["block"] = np.array([pair[1] for pair in pairs], np.uint64)
        if any(block is not None for block in blocks):
            named = _values(blocks, counts)
            for row in (row for row, block in enumerate(named) if block is not None):
                rows["block"][row] = self.identities.block(named[row])

    def _ranks(self, given: Sequence[Any], keys: list[Any], counts: np.ndarray) -> np.ndarray:
        rank_of = self.identities.names.rank_of
        if all(rank is None for rank in given):
            if rank_of is None:
                return np.full(len(keys), UNKNOWN_RANK)
            return np.fromiter(map(rank_of, keys), np.int64, len(keys))
        ranks = _values(given, counts)
        return np.array([UNKNOWN_RANK if rank is None else rank for rank in ranks])


def _spread(values: Sequence[Any], counts: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return a value per row, of tasks that give one for all their rows or one each."""
    if all(type(value) is int for value in values):
        return np.repeat(np.array(values, dtype), counts)
    return np.array(_values(values, counts), dtype)


def _values(values: Sequence[Any], counts: np.ndarray) -> list[Any]:
    spread: list[Any] = []
    for value, count in zip(values, counts.tolist(), strict=True):
        expand = getattr(value, "expand", None)
        if expand is not None:
            value = expand(count)
        if not isinstance(value, list):
            value = [value] * count
        if len(value) != count:
            raise ValueError("a task has another number of values than keys")
        spread += value
    return spread
