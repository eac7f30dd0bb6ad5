"""The rows that a run executes, read once more beside the finished ops."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.placement.looped import fresh_requests

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from kvtrace.placement.rows import RowSource
    from kvtrace.trace.schema import Tier

Rows = dict[str, "NDArray[Any]"]


class ExecutedRows:
    """Columns of the rows of some tiers, taken in order; missing values are masked.

    Finished ops come in the same order, so that taking as many rows gives theirs. A request that
    comes again in a further round has another id there.
    """

    def __init__(self, source: RowSource, columns: Sequence[str], tiers: Sequence[Tier]) -> None:
        self._names = tuple(columns)
        self._tiers = np.array(tiers, np.uint8)
        self._rows = self._read(source)
        self._left: Rows = {}

    def _read(self, source: RowSource) -> Iterator[Rows]:
        for chunk in source.chunks(list(dict.fromkeys([*self._names, "tier"]))):
            which = np.isin(chunk.columns["tier"], self._tiers)
            if which.any():
                columns = fresh_requests(chunk)
                yield {name: columns[name][which] for name in self._names}

    def take(self, count: int) -> Iterator[Rows]:
        """Yield the next `count` rows, in one or more parts."""
        while count:
            rows = self._left or next(self._rows)
            took = min(len(rows[self._names[0]]), count)
            self._left = {name: values[took:] for name, values in rows.items()}
            if not len(self._left[self._names[0]]):
                self._left = {}
            yield {name: values[:took] for name, values in rows.items()}
            count -= took
