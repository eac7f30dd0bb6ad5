"""Rows of a log that is nearly in order of time, such as one written in order of completion."""

from __future__ import annotations

from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from kvtrace.errors import write_failure
from kvtrace.units import S_NS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from kvtrace.trace.reader import Columns

_LAST_NS = np.iinfo(np.int64).max
LEAD_NS_MAX = 10 * S_NS
"""Longest time from a log's own start to its first op that counts as part of the workload."""


def zero_ns(first_ns: int, start_ns: int | None = None) -> int:
    """Return the time on a log's clock that becomes 0 in the trace; the header keeps it.

    It is that of the first op, or `start_ns` of a log that tells when it began, as long as the
    first op follows within `LEAD_NS_MAX`: a clock that began long before (Unix time, time since
    boot) isn't part of the workload. An op that seems to begin before the start moves it.
    """
    if start_ns is None or not 0 <= first_ns - start_ns <= LEAD_NS_MAX:
        return first_ns
    return start_ns


class Again:
    """Batches that can be gone through several times, since they are made anew."""

    def __init__(self, make: Callable[[], Iterator[Columns]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[Columns]:
        return self._make()


class Spool:
    """Batches that can be gone through twice: the first time they are kept in a file in `folder`.

    The file has no name and is gone with the `with` block. Masked arrays keep their masks.
    """

    def __init__(self, batches: Iterable[Columns], folder: Path) -> None:
        self._batches, self._folder = batches, folder
        self._kept: list[dict[str, tuple[np.dtype[Any], int, bool]]] = []
        self._whole = False
        try:
            self._file = TemporaryFile(dir=folder)  # noqa: SIM115 - closed by __exit__
        except OSError as error:
            raise write_failure(folder, error) from error

    def __iter__(self) -> Iterator[Columns]:
        return self._again() if self._whole else self._first()

    def _first(self) -> Iterator[Columns]:
        for columns in self._batches:
            try:
                self._keep(columns)
            except OSError as error:
                raise write_failure(self._folder, error) from error
            yield columns
        self._file.flush()
        self._whole = True

    def _keep(self, columns: Columns) -> None:
        kept = {}
        for name, values in columns.items():
            masked = np.ma.isMaskedArray(values)
            np.ma.getdata(values).tofile(self._file)
            if masked:
                np.ma.getmaskarray(values).tofile(self._file)
            kept[name] = (values.dtype, len(values), masked)
        self._kept.append(kept)

    def _again(self) -> Iterator[Columns]:
        self._file.seek(0)
        for kept in self._kept:
            columns: Columns = {}
            for name, (dtype, count, masked) in kept.items():
                data = np.fromfile(self._file, dtype, count)
                mask = np.fromfile(self._file, np.bool_, count) if masked else None
                columns[name] = data if mask is None else np.ma.masked_array(data, mask=mask)
            yield columns

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        """Let the file go."""
        self._file.close()


class TimeOrder:
    """What a first pass over batches' times finds: how far rows are out of order."""

    def __init__(self) -> None:
        self.rows = 0
        self.disorder = 0
        """Rows that come behind one of a later time."""
        self._starts: list[int] = []
        self._latest = 0

    @property
    def first(self) -> int:
        """The time that becomes 0 (`zero_ns`), or 0 if there are no rows."""
        return zero_ns(min(self._starts)) if self.rows else 0

    def note(self, times: NDArray[np.int64]) -> None:
        """Take the times of the next batch."""
        if not len(times):
            self._starts.append(_LAST_NS)
            return
        before = np.array([self._latest]) if self.rows else times[:1]
        running = np.maximum.accumulate(np.concatenate((before, times)))
        self.disorder += int((times < running[:-1]).sum())
        self.rows += len(times)
        self._latest = int(running[-1])
        self._starts.append(int(times.min()))

    def sorted(
        self, by: str, batches: Iterable[Columns], *, since: Sequence[str] = ()
    ) -> Iterator[Columns]:
        """Yield the rows of the same batches, sorted by column `by` across them; ties as they are.

        Only those rows wait that something later may come before: memory grows with how far rows
        are out of place, not with how many there are. Times of the columns `since` are given since
        the first one of `by`.
        """
        starts = np.array([*self._starts, _LAST_NS], np.int64)
        behind = np.minimum.accumulate(starts[::-1])[::-1][1:]
        waiting: Columns = {}
        for later, columns in zip(behind, batches, strict=True):
            joined = in_order_of(joined_columns(waiting, columns), by) if self.disorder else columns
            # An op as late as a coming one stands before it as well.
            end = int(np.searchsorted(joined[by], later, side="right"))
            if end:
                rows = {name: values[:end] for name, values in joined.items()}
                yield rows | {name: rows[name] - self.first for name in since}
            waiting = {name: values[end:] for name, values in joined.items()}


class Reordered:
    """Batches of rows, sorted by column `by` across batches; they are gone through twice."""

    def __init__(self, by: str, batches: Iterable[Columns], *, since: Sequence[str] = ()) -> None:
        self._by, self._batches, self._since = by, batches, since
        self._order = TimeOrder()
        for columns in batches:
            self._order.note(columns[by])
        self.disorder, self.first = self._order.disorder, self._order.first
        self.rows = self._order.rows

    def __iter__(self) -> Iterator[Columns]:
        """Yield the rows in order."""
        return self._order.sorted(self._by, self._batches, since=self._since)


def joined_columns(before: Columns, behind: Columns) -> Columns:
    """Return the rows of both; `before` may have no columns yet."""
    if not before or not len(next(iter(before.values()))):
        return behind
    return {name: _concatenated([before[name], behind[name]]) for name in behind}


def _concatenated(parts: list[NDArray[Any]]) -> NDArray[Any]:
    masked = any(np.ma.isMaskedArray(part) for part in parts)
    joined: NDArray[Any] = (np.ma.concatenate if masked else np.concatenate)(parts)
    return joined


def in_order_of(columns: Columns, by: str) -> Columns:
    """Return the rows in order of a column, ties as they are."""
    if (np.diff(columns[by]) >= 0).all():
        return columns
    order = np.argsort(columns[by], kind="stable")
    return {name: values[order] for name, values in columns.items()}
