"""CSV files as columns of text, and those as checked numbers; parsed by polars."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from kvtrace.errors import TraceError
from kvtrace.files.textfile import open_text
from kvtrace.requests.lines import Lines, pieces
from kvtrace.requests.rows import MAX_TIME_NS, MAX_TOKENS
from kvtrace.units import MS_NS, S_NS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

LINES_PER_PIECE = 1 << 16
_HEADER_CHARACTERS = 1 << 16


def has_columns(start: bytes, columns: Sequence[str]) -> bool:
    """Return whether the first line of a file's first bytes names all these columns."""
    line = start.partition(b"\n")[0].decode("utf-8", "replace").removeprefix("\ufeff")
    return set(columns) <= {name.strip() for name in line.split(",")}


def header(path: Path, columns: Sequence[str] = ()) -> list[str]:
    """Return the names of a file's columns. Raises TraceError for too long a first line."""
    with open_text(path) as file:
        line = file.readline(_HEADER_CHARACTERS)
    if len(line) == _HEADER_CHARACTERS:
        raise TraceError(
            "too long a header", where=f"{path}:1", accepted=f"a header with {','.join(columns)}"
        )
    return [name.strip() for name in line.strip().split(",")]


def read(path: Path, columns: Sequence[str]) -> Iterator[tuple[Lines, pl.DataFrame]]:
    """Yield pieces of `path` as text in `columns`, found by the header line; others are ignored.

    Raises TraceError for a header without them and for a line of another width.
    """
    names = header(path, columns)
    missing = [name for name in columns if name not in names]
    if missing or len(set(names)) < len(names):
        raise TraceError(
            f"no column {missing[0]}" if missing else "a column twice",
            where=f"{path}:1",
            got=_shortened(",".join(names)),
            accepted=f"a header with {','.join(columns)}",
        )
    for piece in pieces(path, LINES_PER_PIECE, first=2):
        yield piece, _split(piece, names).select(columns)


def _split(piece: Lines, names: list[str]) -> pl.DataFrame:
    text = "".join(piece.lines).encode()
    if text.count(b",") != len(piece.lines) * (len(names) - 1) or b'"' in text:
        _check_widths(piece, len(names))
    try:
        return pl.read_csv(text, has_header=False, new_columns=names, infer_schema=False)
    except pl.exceptions.PolarsError as error:
        # A row may lack the commas that another one has too many.
        _check_widths(piece, len(names))
        raise TraceError(f"not CSV: {error}", where=f"{piece.where}:{piece.first}") from error


def _check_widths(piece: Lines, width: int) -> None:
    for number, line in enumerate(piece.lines, start=piece.first):
        if line.count(",") != width - 1 or '"' in line:
            raise TraceError(
                "not a row of this file",
                where=f"{piece.where}:{number}",
                got=_shortened(line.strip()),
                accepted=f"{width} values without quotes",
            )


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


def names(frame: pl.DataFrame, name: str, piece: Lines) -> pl.Series:
    """Return a column of names, none of them empty. Raises TraceError that names the line."""
    values = frame[name]
    _refuse(frame, name, piece, values.is_null() | (values == ""), accepted="a name")
    return values


def tokens(frame: pl.DataFrame, name: str, piece: Lines) -> NDArray[np.int64]:
    """Return a column of token counts, 0 or more. Raises TraceError that names the line."""
    values = frame[name].cast(pl.Int64, strict=False)
    wrong = values.is_null() | (values < 0) | (values > MAX_TOKENS)
    _refuse(frame, name, piece, wrong, accepted=f"a whole number from 0 to {MAX_TOKENS:,}")
    return values.to_numpy().copy()


def seconds_ns(frame: pl.DataFrame, name: str, piece: Lines) -> NDArray[np.int64]:
    """Return a column of seconds as nanoseconds. Raises TraceError that names the line."""
    values = frame[name].cast(pl.Float64, strict=False)
    wrong = values.is_null() | ~values.is_finite() | (values < 0) | (values >= MAX_TIME_NS / S_NS)
    _refuse(frame, name, piece, wrong, accepted="seconds, 0 or more")
    nanoseconds: NDArray[np.int64] = np.rint(values.to_numpy() * S_NS).astype(np.int64)
    return nanoseconds


def ms_ns(frame: pl.DataFrame, name: str, piece: Lines) -> NDArray[np.int64]:
    """Return a column of milliseconds as nanoseconds. Raises TraceError that names the line."""
    values = frame[name].cast(pl.Float64, strict=False)
    wrong = values.is_null() | ~values.is_finite() | (values < 0) | (values >= MAX_TIME_NS / MS_NS)
    _refuse(frame, name, piece, wrong, accepted="milliseconds, 0 or more")
    nanoseconds: NDArray[np.int64] = np.rint(values.to_numpy() * MS_NS).astype(np.int64)
    return nanoseconds


def dates_ns(frame: pl.DataFrame, name: str, piece: Lines) -> NDArray[np.int64]:
    """Return a column of dates, UTC if they have no zone, as Unix nanoseconds.

    Raises TraceError that names the line.
    """
    text = frame[name].str.strip_suffix("Z").str.strip_suffix("+00:00")
    values = text.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="ns", strict=False)
    accepted = "e.g. 2023-11-16 18:17:03.9799600"
    _refuse(frame, name, piece, values.is_null(), accepted=accepted)
    return values.to_physical().to_numpy().copy()


def _refuse(
    frame: pl.DataFrame, name: str, piece: Lines, wrong: pl.Series, *, accepted: str
) -> None:
    row = wrong.fill_null(value=True).arg_max()
    if row is None or not wrong.fill_null(value=True)[row]:
        return
    got = frame[name][row]
    raise TraceError(
        f"bad {name}",
        where=f"{piece.where}:{piece.first + row}",
        got="nothing" if got is None else _shortened(got),
        accepted=accepted,
    )
