"""Tables of text as other tools write them: read in blocks, a bad row named by file and line."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from kvtrace.errors import TraceError
from kvtrace.files.textfile import open_binary
from kvtrace.trace.schema import MAX_SIZE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import IO, Any

    from numpy.typing import NDArray

BLOCK_BYTES = 4 << 20
"""Arrow reads up to 32 blocks ahead of the one that is looked at: memory is as many."""
UTC_NS = pa.timestamp("ns", "UTC")
_CONVERSION = re.compile(r"In CSV column #\d+: (?:Row #(\d+): )?CSV conversion error to (.*)")


def header_of(path: Path, delimiter: str) -> list[str]:
    """Return the names in a table's first line."""
    with open_binary(path) as stream:
        line: bytes = stream.read(1 << 16).partition(b"\n")[0]
    return line.decode("utf-8", "replace").rstrip("\r").split(delimiter)


def need_columns(path: Path, names: Sequence[str], needed: Sequence[str]) -> None:
    """Raise TraceError unless `names` has all that are `needed`."""
    if missing := [name for name in needed if name not in names]:
        raise TraceError(
            f"missing column {missing[0]}",
            where=path,
            got=", ".join(names)[:200],
            accepted=", ".join(needed),
        )


class _Ending:
    """A stream that Arrow's own thread reads ahead, and that can be ended.

    A thread that still reads when the interpreter ends takes the process with it by SIGABRT.
    """

    closed = False

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._ended = False
        self._idle = threading.Event()

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, none once the stream was ended or is at its end."""
        data: bytes = b"" if self._ended else self._stream.read(size)
        if not data:
            self._idle.set()
        return data

    def end(self) -> None:
        """Return when the thread has been told of the end, or doesn't ask for more."""
        self._ended = True
        self._idle.wait(timeout=0.5)


class Table:
    """A table with a header, some of whose columns are read, each of an Arrow type.

    Empty lines and those that begin with # are left out. `wrapped`: what makes plain CSV of the
    file.
    """

    def __init__(
        self,
        path: Path,
        types: Mapping[str, pa.DataType],
        *,
        delimiter: str,
        names: Sequence[str] | None = None,
        wrapped: Callable[[IO[bytes]], Any] | None = None,
    ) -> None:
        self._path, self._wrapped = path, wrapped
        self._read = pa_csv.ReadOptions(
            block_size=BLOCK_BYTES, use_threads=False, column_names=names
        )
        self._parse = pa_csv.ParseOptions(
            delimiter=delimiter, newlines_in_values=True, invalid_row_handler=self._bad_row
        )
        self._convert = pa_csv.ConvertOptions(column_types=types, include_columns=list(types))
        self._error: TraceError | None = None

    def _bad_row(self, row: pa_csv.InvalidRow) -> str:
        if row.text.startswith("#"):
            return "skip"
        self._error = TraceError(
            "wrong number of columns",
            where=self._path if row.number is None else f"{self._path}:{row.number}",
            got=f"{row.actual_columns}: {row.text[:60]!r}",
            accepted=row.expected_columns,
        )
        return "error"

    def __iter__(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield blocks, each with the number of rows before it.

        Raises TraceError for the first line that isn't what it should be.
        """
        before = 0
        with open_binary(self._path) as stream:
            plain = _Ending(stream if self._wrapped is None else self._wrapped(stream))
            try:
                for batch in pa_csv.open_csv(plain, self._read, self._parse, self._convert):
                    yield before, batch
                    before += batch.num_rows
            except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
                self._fail(error, before)
            finally:
                plain.end()

    def _fail(self, error: Exception, before: int) -> NoReturn:
        if self._error is not None:
            raise self._error from error
        match = _CONVERSION.search(str(error))
        line = match[1] if match else None
        raise TraceError(
            f"not a {match[2]}" if match else f"not such a table: {error}",
            where=f"{self._path}:{line}" if line else f"{self._path}: at or behind row {before}",
        ) from error


def refuse(
    bad: NDArray[np.bool_] | pa.Array, values: pa.Array, path: Path, before: int, *,
    name: str, accepted: str,
) -> None:  # fmt: skip
    """Raise TraceError for the first row that is `bad`; `before` rows are in the blocks before."""
    if isinstance(bad, pa.Array):
        bad = bad.fill_null(fill_value=True).to_numpy(zero_copy_only=False)
    if bad.any():
        at = int(np.argmax(bad))
        raise TraceError(
            f"{name} not accepted",
            where=f"{path}: row {before + at + 1}",
            got=repr(values.slice(at, 1).cast(pa.string())[0].as_py()),
            accepted=accepted,
        )


def sizes(values: pa.Array, path: Path, before: int, name: str) -> NDArray[np.int64]:
    """Return bytes, checked: not negative, not beyond what is taken for damage."""
    bad = pc.or_(pc.less(values, 0), pc.greater(values, MAX_SIZE_BYTES))
    refuse(bad, values, path, before, name=name, accepted=f"0 to {MAX_SIZE_BYTES} bytes")
    sizes: NDArray[np.int64] = values.to_numpy(zero_copy_only=False)
    return sizes


def coded(values: pa.Array, words: Mapping[str, int], other: int) -> NDArray[np.uint8]:
    """Return the code of each word, `other` where it has none."""
    encoded = values.dictionary_encode()
    codes = [words.get(word, other) for word in encoded.dictionary.to_pylist()]
    numbers: NDArray[np.uint8] = np.array(codes or [other], np.uint8)[encoded.indices.to_numpy()]
    return numbers
