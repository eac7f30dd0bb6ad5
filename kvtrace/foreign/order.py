"""Rows of a log that is nearly in order of time, such as one written in order of completion."""

from __future__ import annotations

from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from kvtrace.errors import write_failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from kvtrace.reader import Columns

_LAST_NS = np.iinfo(np.int64).max


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


class Reordered:
    """Batches of rows, sorted by column `by` across batches; ties keep their order.

    They are gone through twice: the first time to learn from when on each of them has rows, so
    that the second time only those rows wait that something later may come before. Memory grows
    with how far rows are out of place, not with how many there are. Times of the columns `since`
    are given since the first one of `by`.
    """

    def __init__(self, by: str, batches: Iterable[Columns], *, since: Sequence[str] = ()) -> None:
        self._by, self._batches, self._since = by, batches, since
        self.disorder = 0
        """Rows that come behind one of a later time."""
        starts: list[int] = []
        latest = None
        for columns in batches:
            times = columns[by]
            if not len(times):
                starts.append(_LAST_NS)
                continue
            before = times[:1] if latest is None else np.array([latest])
            running = np.maximum.accumulate(np.concatenate((before, times)))
            self.disorder += int((times < running[:-1]).sum())
            latest = int(running[-1])
            starts.append(int(times.min()))
        self.first = min(starts) if latest is not None else 0
        later = np.minimum.accumulate(np.array([*starts, _LAST_NS], np.int64)[::-1])[::-1]
        self._later = later[1:]

    def __iter__(self) -> Iterator[Columns]:
        """Yield the rows in order."""
        waiting: Columns = {}
        for later, columns in zip(self._later, self._batches, strict=True):
            joined = (
                in_order_of(joined_columns(waiting, columns), self._by)
                if self.disorder
                else columns
            )
            # What is as late as something to come stands before it, too.
            end = int(np.searchsorted(joined[self._by], later, side="right"))
            if end:
                rows = {name: values[:end] for name, values in joined.items()}
                yield rows | {name: rows[name] - self.first for name in self._since}
            waiting = {name: values[end:] for name, values in joined.items()}


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
