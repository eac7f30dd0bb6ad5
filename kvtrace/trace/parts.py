"""Writes a trace as a directory of parts, for traces that are too large for one file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from kvtrace.errors import TargetError
from kvtrace.files.drafts import DraftFolder
from kvtrace.files.outfile import check_rows
from kvtrace.files.outputs import check_folder, check_parent, exists_already
from kvtrace.trace.schema import HEADER_KEY, ROW_GROUP_ROWS
from kvtrace.trace.writer import HEAD_NAME, TraceWriter

if TYPE_CHECKING:
    from pathlib import Path

PART_ROWS = 16 * ROW_GROUP_ROWS
"""Rows of each part but the last."""


def part_name(number: int) -> str:
    """Return the name of a part, counted from 0."""
    return f"part-{number:05}.parquet"


def files_of_trace(folder: Path) -> list[Path]:
    """Return the files of a trace in a directory. Raises TargetError if anything else is in it."""
    entries = sorted(folder.iterdir())
    parts = [folder / part_name(number) for number in range(len(entries) - 1)]
    foreign = [path for path in entries if path not in (folder / HEAD_NAME, *parts)]
    foreign += [path for path in entries if path.is_symlink() or not path.is_file()]
    if not foreign and entries and _has_header(folder / HEAD_NAME):
        return entries
    raise TargetError(
        "is a directory that isn't a trace, or has other files in it",
        where=folder,
        got=foreign[0].name if foreign else "no trace",
        hint="name another directory",
    )


def _has_header(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return HEADER_KEY in (pq.read_metadata(file).metadata or {})
    except (OSError, pa.ArrowException):
        return False


class PartsWriter(TraceWriter):
    """Writes rows to a directory of parts of PART_ROWS rows each, and the header beside them.

    `force` replaces a directory only if it is a trace and nothing else is in it.
    """

    _draft: DraftFolder

    def _new_draft(self, *, force: bool) -> DraftFolder:
        if check_folder(self.path):
            files_of_trace(self.path)
            if not force:
                raise exists_already(self.path)
        check_parent(self.path)
        return DraftFolder(self.path, files_of_trace if force else None)

    def _first(self) -> pq.ParquetWriter:
        return self._part(0)

    def _part(self, start_row: int) -> pq.ParquetWriter:
        self._begin_row = start_row
        self._name = part_name(start_row // PART_ROWS)
        self._out = self._draft.file(self._name)
        return self._parquet(self._out)

    def _write(self, table: pa.Table, start_row: int) -> None:
        if start_row and start_row % PART_ROWS == 0:
            self._end(start_row - self._begin_row)
            self._file = self._part(start_row)
        super()._write(table, start_row)

    def _end(self, rows: int) -> None:
        """Close a part, and read it back."""
        self._file = self._file or self._first()
        self._file.close()
        self._draft.keep(self._out)
        check_rows(self._draft.place / self._name, rows)

    def _finish(self, metadata: dict[bytes, bytes]) -> None:
        self._end(self._rows - (self._begin_row if self._file is not None else 0))
        head: Any = self._draft.file(HEAD_NAME)
        with self._parquet(head) as writer:
            writer.add_key_value_metadata(metadata)
        self._draft.keep(head)
        check_rows(self._draft.place / HEAD_NAME, 0)
        self._draft.publish()
