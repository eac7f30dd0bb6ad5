"""Writes files of other formats, plain or compressed, that appear whole or not at all."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa

from kvtrace.errors import write_failure
from kvtrace.writer import check_writable, fsync, partial_path

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

_CODECS = {".gz": "gzip", ".zst": "zstd"}


class WholeFile:
    """A file that appears at the end of a `with` block that raised nothing, or not at all."""

    _file: Any
    """What the bytes go through; closed at the end."""

    def __init__(self, path: Path, *, force: bool) -> None:
        check_writable(path, force=force)
        self.path = path
        self.partial = partial_path(path)
        try:
            self._file = self._open()
        except OSError as error:
            raise write_failure(path, error) from error

    def _open(self) -> Any:
        """Create the partial file."""
        raise NotImplementedError

    def close(self) -> None:
        """Give the file, complete, its name; if that fails, nothing is left."""
        try:
            self._file.close()
            fsync(self.partial)
            self.partial.replace(self.path)
        except OSError as error:
            raise write_failure(self.path, error) from error
        finally:
            self.abort()

    def abort(self) -> None:
        """Remove what was written and has no name yet."""
        with suppress(OSError):  # a full disk can't take the rest either
            self._file.close()
        self.partial.unlink(missing_ok=True)

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

    def write(self, table: pa.Table) -> None:
        """Add rows."""
        try:
            self._file.write_table(table)
        except OSError as error:
            raise write_failure(self.path, error) from error


class OutFile(WholeFile):
    """Takes bytes for `path`, compressed as its name says (.gz, .zst)."""

    def _open(self) -> Any:
        return pa.output_stream(str(self.partial), compression=_CODECS.get(self.path.suffix))

    def write(self, data: bytes | memoryview | pa.Buffer) -> None:
        """Add bytes."""
        try:
            self._file.write(data)
        except OSError as error:
            raise write_failure(self.path, error) from error
