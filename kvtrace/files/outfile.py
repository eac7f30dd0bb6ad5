"""Writes files of other formats, plain or compressed, that appear whole or not at all."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from kvtrace.errors import TargetError, write_failure
from kvtrace.files.drafts import Draft

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from types import TracebackType

_CODECS = {".gz": "gzip", ".zst": "zstd"}


def write_whole(path: Path, write_to: Callable[[Path], object], *, force: bool = False) -> None:
    """Let `write_to` fill a draft, which then becomes `path`. Raises TargetError."""
    draft = Draft(path, force=force)
    fill(draft, write_to)
    draft.publish()


def fill(draft: Draft, write_to: Callable[[Path], object]) -> None:
    """Let `write_to` fill a draft by its name; discard it if that fails. Raises TargetError."""
    with ExitStack() as undo:
        undo.callback(draft.discard)
        try:
            write_to(draft.place)
        except OSError as error:
            raise write_failure(draft.path, error) from error
        undo.pop_all()


def write_all(paths: Iterable[Path], write: Callable[[Path], object]) -> None:
    """Call `write` for each output: one that fails costs none of the others.

    Raises TargetError that names those that failed.
    """
    failures = []
    for path in paths:
        try:
            write(path)
        except TargetError as error:
            failures.append(error)
    if len(failures) > 1:
        raise TargetError("; ".join(map(str, failures)))
    if failures:
        raise failures[0]


class WholeFile:
    """A file that appears at the end of a `with` block that raised nothing, or not at all."""

    _file: Any
    """What the bytes go through; closed at the end."""

    def __init__(self, path: Path, *, force: bool) -> None:
        self.path = path
        self.draft = Draft(path, force=force)
        try:
            self._file = self._open()
        except OSError as error:
            self.draft.discard()
            raise write_failure(path, error) from error

    def _open(self) -> Any:
        """Return what the bytes go through, on top of the draft's file."""
        raise NotImplementedError

    def close(self) -> None:
        """Give the file, complete, its name; if that fails, nothing is left."""
        if not self.draft.open:
            return
        try:
            self._file.close()
        except OSError as error:
            self.draft.discard()
            raise write_failure(self.path, error) from error
        self.draft.publish(self._check)

    def _check(self, place: Path) -> None:
        """Read the file back before it gets its name. Raises OSError."""

    def abort(self) -> None:
        """Remove what was written and has no name yet."""
        with suppress(OSError):  # a full disk can't take the rest either
            self._file.close()
        self.draft.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


class TableFile(WholeFile):
    """Takes tables for `path`, a Parquet file."""

    _rows = 0

    def write(self, table: pa.Table) -> None:
        """Add rows."""
        try:
            self._file.write_table(table)
        except OSError as error:
            raise write_failure(self.path, error) from error
        self._rows += table.num_rows

    def _check(self, place: Path) -> None:
        check_rows(place, self._rows)


class OutFile(WholeFile):
    """Takes bytes for `path`, compressed as its name says (.gz, .zst)."""

    def _open(self) -> Any:
        codec = _CODECS.get(self.path.suffix)
        if codec is None:
            return self.draft.file
        return pa.CompressedOutputStream(pa.PythonFile(self.draft.file, "w"), codec)

    def write(self, data: bytes | memoryview | pa.Buffer) -> None:
        """Add bytes."""
        try:
            self._file.write(data)
        except OSError as error:
            raise write_failure(self.path, error) from error


def check_rows(place: Path, rows: int) -> None:
    """Check that a Parquet file, read back, has a footer and that many rows. Raises OSError."""
    try:
        with place.open("rb") as file:
            kept = pq.read_metadata(file).num_rows
    except pa.ArrowException as error:
        raise OSError(f"what was written can't be read back: {error}") from error
    if kept != rows:
        raise OSError(f"{rows:,} rows were written, {kept:,} can be read back")
