"""Writes a trace as a directory of parts, for traces that are too large for one file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvtrace.schema import ROW_GROUP_ROWS
from kvtrace.writer import HEAD_NAME, TraceWriter, fsync

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa
    import pyarrow.parquet as pq

PART_ROWS = 16 * ROW_GROUP_ROWS
"""Rows of each part but the last."""


class PartsWriter(TraceWriter):
    """Writes rows to a directory of parts of PART_ROWS rows each, and the header beside them.

    `force` replaces a directory only if it is a trace.
    """

    _directory = True

    def _first(self) -> pq.ParquetWriter:
        self._partial.mkdir()
        return self._parquet(self._part(0))

    def _part(self, start_row: int) -> Path:
        return self._partial / f"part-{start_row // PART_ROWS:05}.parquet"

    def _write(self, table: pa.Table, start_row: int) -> None:
        if start_row and start_row % PART_ROWS == 0:
            self._file.close()
            fsync(self._part(start_row - 1))
            self._file = self._parquet(self._part(start_row))
        super()._write(table, start_row)

    def _publish(self) -> None:
        """Rename the directory, in place of the trace that is replaced."""
        fsync(self._partial)
        _remove_trace(self.path)
        self._partial.replace(self.path)

    def _finish(self, metadata: dict[bytes, bytes]) -> None:
        self._file.close()
        fsync(self._part(max(0, self._rows - 1)))
        with self._parquet(self._partial / HEAD_NAME) as head:
            head.add_key_value_metadata(metadata)
        fsync(self._partial / HEAD_NAME)

    def _remove(self) -> None:
        _remove_trace(self._partial)


def _remove_trace(folder: Path) -> None:
    """Remove the parts in a directory and, empty then, itself; do nothing if there is none."""
    if folder.is_dir():
        for part in folder.glob("*.parquet"):
            part.unlink()
        folder.rmdir()
