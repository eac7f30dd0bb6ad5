"""Several streams of rows as one, in order of time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.trace.schema import BY_NAME
from kvtrace.trace.writer import numpy_dtype

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from kvtrace.trace.reader import Columns


class _Head:
    """The next rows of one of the streams."""

    def __init__(self, batches: Iterator[Columns], columns: tuple[str, ...]) -> None:
        self._batches, self._columns = batches, columns
        self.rows: Columns = {}
        self.refill()

    def refill(self) -> None:
        """Read on; `rows` is empty only if there are no more."""
        self.rows = {}
        for batch in self._batches:
            if len(batch["timestamp"]):
                self.rows = {name: _filled(batch, name) for name in self._columns}
                return

    @property
    def last_ns(self) -> int:
        """Time of the last row that is here."""
        return int(self.rows["timestamp"][-1])

    def take(self, until_ns: int, *, inclusive: bool) -> Columns:
        """Return the rows before `until_ns`, or up to it."""
        first_beyond_ns = until_ns + 1 if inclusive else until_ns
        end = int(np.searchsorted(self.rows["timestamp"], first_beyond_ns))
        taken = {name: values[:end] for name, values in self.rows.items()}
        self.rows = {name: values[end:] for name, values in self.rows.items()}
        return taken


def _filled(batch: Columns, name: str) -> NDArray[Any]:
    if name in batch:
        return batch[name]
    return np.ma.masked_array(
        np.zeros(len(batch["timestamp"]), numpy_dtype(BY_NAME[name])), mask=True
    )


def interleaved(
    streams: Sequence[Iterator[Columns]], columns: tuple[str, ...]
) -> Iterator[Columns]:
    """Yield the rows of all streams in order of time; of equal ones, in order of the streams.

    A column that a stream lacks is null there. Memory: a batch of each.
    """
    heads = [_Head(stream, columns) for stream in streams]
    while heads := [head for head in heads if head.rows]:
        # Up to this time all is known: the stream that ends there first must be read on before
        # those behind it may go on with the same time.
        until_ns = min(head.last_ns for head in heads)
        at = next(i for i, head in enumerate(heads) if head.last_ns == until_ns)
        parts = [head.take(until_ns, inclusive=i <= at) for i, head in enumerate(heads)]
        heads[at].refill()
        joined = {name: _joined([part[name] for part in parts]) for name in columns}
        order = np.argsort(joined["timestamp"], kind="stable")
        yield {name: values[order] for name, values in joined.items()}


def _joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    masked = any(np.ma.isMaskedArray(part) for part in parts)
    joined: NDArray[Any] = (np.ma.concatenate if masked else np.concatenate)(parts)
    return joined
