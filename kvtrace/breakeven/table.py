"""A table of measured prefill times: CSV of tokens, seconds and, if known, seconds from HBM."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.errors import TraceError, UsageError
from kvtrace.files.documents import MAX_CONFIG_BYTES, read_document

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kvtrace.breakeven.recompute import Values

COLUMNS = ("tokens", "seconds", "hbm_seconds")
_MOST_TOKENS = float(1 << 31)


@dataclass(frozen=True, slots=True)
class Measured:
    """Prefill times by length, which rises. `hbm_s`: with the whole prompt in HBM, where known."""

    tokens: Values
    seconds: Values
    hbm_s: Values | None
    origin: object

    def net_s(self, floor_s: float) -> Values:
        """Return the times less the floor: the table's, else `floor_s` at every length.

        Raises TraceError where that is negative or falls with the length.
        """
        net = self.seconds - (floor_s if self.hbm_s is None else self.hbm_s)
        falls = np.flatnonzero(np.diff(np.append(0.0, net)) < 0)
        if len(falls):
            at = int(falls[0])
            raise TraceError(
                "prefill less the HBM floor falls with the length", where=self.origin,
                got=f"{net[at]:g} s at {self.tokens[at]:,.0f} tokens",
                accepted="times of 0 or more that don't fall",
            )  # fmt: skip
        return net


def read_table(given: Any) -> Measured:
    """Return the table in a file, or of rows. Raises TraceError or UsageError for a bad one."""
    if isinstance(given, Path):
        text = read_document(given, "the table", most=MAX_CONFIG_BYTES)
        rows = list(_rows(csv.reader(text.splitlines()), given))
        return _checked(rows, given)
    try:
        rows = [tuple(float(value) for value in row) for row in given]
    except (TypeError, ValueError) as error:
        raise UsageError(
            "not accepted", where="prefill_table", accepted="a path, or rows of (tokens, seconds)"
        ) from error
    return _checked(rows, "prefill_table")


def _rows(lines: Iterator[list[str]], path: Path) -> Iterable[tuple[float, ...]]:
    head = [name.strip() for name in next(lines, [])]
    if tuple(head) not in (COLUMNS[:2], COLUMNS):
        raise TraceError(
            "not a table of prefill times", where=path, got=",".join(head),
            accepted=f"a head {','.join(COLUMNS[:2])} or {','.join(COLUMNS)}",
        )  # fmt: skip
    for number, line in enumerate(lines, start=2):
        if not line:
            continue
        try:
            row = tuple(map(float, line))
        except ValueError:
            row = ()
        if len(row) != len(head):
            raise TraceError(
                "not a row of the table", where=f"{path}:{number}", got=",".join(line),
                accepted=f"{len(head)} numbers",
            )  # fmt: skip
        yield row


def _checked(rows: list[tuple[float, ...]], origin: object) -> Measured:
    widths = {len(row) for row in rows}
    if len(rows) < 2 or len(widths) > 1 or not widths <= {2, 3}:
        raise TraceError(
            "too short a table of prefill times", where=origin, got=f"{len(rows)} rows",
            accepted="at least 2 rows of 2 or 3 numbers",
        )  # fmt: skip
    before = 0.0
    for row in rows:
        if not before < row[0] <= _MOST_TOKENS or not all(map(math.isfinite, row)):
            raise TraceError(
                "tokens must rise", where=origin, got=", ".join(f"{value:g}" for value in row),
                accepted="finite numbers, tokens above those of the row before",
            )  # fmt: skip
        if min(row[1:]) < 0:
            raise TraceError("a negative time", where=origin, got=f"{min(row[1:]):g} s")
        before = row[0]
    columns = np.array(rows, np.float64).T
    return Measured(columns[0], columns[1], columns[2] if len(columns) == 3 else None, origin)
