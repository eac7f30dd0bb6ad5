"""Operation logs of warp as plain CSV: it quotes some fields only, and names of objects never."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import IO

_CHUNK_BYTES = 4 << 20
_FIELD_BYTES_MAX = 1 << 16
"""Longest text in quotes that goes on over several lines."""
_QUOTED = re.compile(rb'"(?:[^"]|"")*"(?=\t|\r?$)')
QUOTED = ("error", "endpoint")
"""Source: minio/warp, pkg/bench/ops.go (`WriteCSV`): what `csvEscapeString` is called for."""


class Requoted:
    """A stream of tab-separated lines in which every field with a quote is put in quotes.

    Those named in `QUOTED` may be in quotes already, newlines among them; s3dlio quotes nothing.
    Comments, which begin with #, lose their text.
    """

    closed = False

    def __init__(self, stream: IO[bytes], names: Sequence[str]) -> None:
        self._stream, self._may = stream, [name in QUOTED for name in names]
        self._parts = self._all()
        self._held = b""

    def read(self, count: int) -> bytes:
        """Return the next bytes; none at the end."""
        while not self._held:
            part = next(self._parts, None)
            if part is None:
                return b""
            self._held = part
        taken, self._held = self._held[:count], self._held[count:]
        return taken

    def _all(self) -> Iterator[bytes]:
        left, ended = b"", False
        while not ended:
            chunk = self._stream.read(_CHUNK_BYTES)
            ended, data = not chunk, left + chunk
            end = len(data) if ended else data.rfind(b"\n") + 1
            if not end and len(data) > _CHUNK_BYTES:
                end = len(data)  # a line longer than a block: its reader refuses it
            whole, unended = data[:end], b""
            if b'"' in whole:
                whole, unended = self._lines(whole, ended=ended)
            left = unended + data[end:]
            yield whole

    def _lines(self, data: bytes, *, ended: bool) -> tuple[bytes, bytes]:
        """Return lines with all quoted, and the last one if it may go on behind these lines."""
        made: list[bytes] = []
        *whole, last = data.split(b"\n")
        line = b""
        for part in [*(part + b"\n" for part in whole), *([last] if last else [])]:
            line += part
            fields = self._fields(line)
            if fields is not None or len(line) >= _FIELD_BYTES_MAX:
                made.append(_joined(line, fields))
                line = b""
        if line and ended:
            made.append(_joined(line, None))
            line = b""
        return b"".join(made), line

    def _fields(self, line: bytes) -> list[bytes] | None:
        """Return a line's fields as they are meant; None if a quoted one doesn't end in it."""
        if b'"' not in line or line.startswith(b"#"):
            return []
        rest, fields = line.rstrip(b"\r\n"), []
        for number, may in enumerate(self._may):
            match = _QUOTED.match(rest) if may else None
            if match:
                fields.append(match[0][1:-1].replace(b'""', b'"'))
                rest = rest[match.end() + 1 :]
                continue
            if may and rest.startswith(b'"') and rest.count(b"\t") < len(self._may) - number - 1:
                return None
            field, _, rest = rest.partition(b"\t")
            fields.append(field)
        return [*fields, rest] if rest else fields


def _joined(line: bytes, fields: list[bytes] | None) -> bytes:
    """Return a line of fields; one without any is as it was, or a comment."""
    if fields == []:
        return b"#\n" if line.startswith(b"#") else line
    return b"\t".join(map(_in_quotes, fields or line.rstrip(b"\r\n").split(b"\t"))) + b"\n"


def _in_quotes(field: bytes) -> bytes:
    if b'"' not in field and b"\n" not in field:
        return field
    return b'"' + field.replace(b'"', b'""') + b'"'
