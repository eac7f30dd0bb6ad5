"""Opens input files, plain or compressed (.gz, .zst), so that damage is noticed."""

from __future__ import annotations

import io
from codecs import BOM_UTF8
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from kvtrace.errors import TraceError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pyarrow as pa

_BUFFER_BYTES = 1 << 20
_CODECS = {".gz": "gzip", ".zst": "zstd"}


def arrow_source(path: Path) -> Path | IO[bytes]:
    """Return what Arrow opens: the path, or, if its name isn't UTF-8, the open file."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return path.open("rb")
    return path


@contextmanager
def open_binary(path: Path) -> Iterator[pa.NativeFile]:
    """Give the decompressed bytes of `path`; damage met while reading is a TraceError."""
    import pyarrow as pa  # here, since help imports this module

    if path.is_dir():
        raise TraceError("is a directory", where=path, accepted="a file")
    try:
        if path.stat().st_size == 0:
            raise TraceError("empty file", where=path)
        # Arrow's streams raise on a truncated frame, where python-zstandard's just ends.
        with pa.input_stream(arrow_source(path), compression=_CODECS.get(path.suffix)) as stream:
            yield stream
    except (OSError, pa.ArrowException) as error:
        raise TraceError(
            f"can't read: {error}", where=path, hint="copy or make the file again"
        ) from error


@contextmanager
def open_text(path: Path, *, line_bytes: int | None = None) -> Iterator[IO[str]]:
    """Give the lines of `path` as UTF-8 text, without a mark of byte order at its begin.

    A line longer than `line_bytes` is a TraceError.
    """
    with open_binary(path) as stream:
        raw = stream if line_bytes is None else _Bounded(stream, path, line_bytes)
        try:
            buffered = io.BufferedReader(raw, _BUFFER_BYTES)
            if buffered.peek(len(BOM_UTF8)).startswith(BOM_UTF8):
                buffered.read(len(BOM_UTF8))
            yield io.TextIOWrapper(buffered, encoding="utf-8")
        except UnicodeDecodeError as error:
            raise TraceError("not UTF-8 text", where=path, got=str(error)) from error


class _Bounded(io.RawIOBase):
    """A stream that refuses to go on within a line that is too long."""

    def __init__(self, stream: pa.NativeFile, path: Path, line_bytes: int) -> None:
        self._stream, self._path, self._most = stream, path, line_bytes
        self._line = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count: int = self._stream.readinto(buffer)
        end = bytes(buffer[:count]).rfind(b"\n")
        self._line = self._line + count if end < 0 else count - end - 1
        if self._line > self._most:
            raise TraceError(
                "too long a line", where=self._path, accepted=f"up to {self._most >> 20} MiB"
            )
        return count
