"""Wanted fields of lines of JSON, scanned in C where they look as their writers print them.

What isn't plain (an escape in a string, a number with an exponent, a field twice, a field of
another type) is no error here: such lines are left to the parser that knows what to refuse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from kvtrace.native.core import function
from kvtrace.native.library import INT, POINTER
from kvtrace.native.structures import Structure, fields
from kvtrace.requests.request import Ragged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Kind = Literal["object", "number", "decimal", "list", "text", "constant"]
_KINDS: tuple[Kind, ...] = ("object", "number", "decimal", "list", "text", "constant")
MISSING = -1


class JsonStruct(Structure):
    """`struct kv_json` of `jsonscan.c`."""

    ARRAYS, _fields_ = fields(
        data=np.uint8, size=INT, names=np.uint8, texts=np.uint8, name_ends=np.int64,
        text_ends=np.int64, parent=np.int64, kind=np.int64, column=np.int64, fields=INT,
        number_columns=INT, text_columns=INT, numbers=np.int64, spans=np.int64, counts=np.int64,
        ids=np.uint64, seen=np.uint64, is_plain=np.uint8,
    )  # fmt: skip


_scan = function("kv_scan_json", POINTER, returns=INT)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A field by its path, as `request.replay`; `text`: what a constant must be."""

    path: str
    kind: Kind
    text: str = ""


@dataclass(frozen=True, slots=True)
class Scanned:
    """Of each line the wanted numbers and texts, by path, and the list's ids, viewed as int64.

    A number that a line lacks is `MISSING`, a decimal one NaN; begin and end of a text are bytes of
    `data`, or `MISSING`. `has`: whether a line has a field.
    """

    data: bytes
    is_plain: NDArray[np.bool_]
    numbers: dict[str, NDArray[np.int64]]
    decimals: dict[str, NDArray[np.float64]]
    spans: dict[str, NDArray[np.int64]]
    has: dict[str, NDArray[np.bool_]]
    ids: Ragged

    def texts(self, path: str, rows: NDArray[np.int64]) -> list[str | None]:
        """Return the texts at `rows`, None where a line has none."""
        pairs = self.spans[path][rows].tolist()
        data = self.data
        return [None if begin < 0 else data[begin:end].decode() for begin, end in pairs]


def scan(lines: Sequence[str], wanted: Sequence[Wanted]) -> Scanned:
    """Scan lines, each of which ends in a newline, but the last one maybe; at most 64 fields."""
    data, paths = "".join(lines).encode(), [each.path for each in wanted]
    parents = [paths.index(path.rpartition(".")[0]) if "." in path else -1 for path in paths]
    columns: dict[Kind, list[str]] = {kind: [] for kind in _KINDS}
    column = []
    for each in wanted:
        # Decimal numbers lie with the others, by their bits.
        kind: Kind = "number" if each.kind == "decimal" else each.kind
        column.append(len(columns[kind]))
        columns[kind].append(each.path)
    names = [path.rpartition(".")[2].encode() for path in paths]
    texts = [each.text.encode() for each in wanted]
    numbers = np.full((len(lines), len(columns["number"])), MISSING, np.int64)
    spans = np.full((len(lines), len(columns["text"]), 2), MISSING, np.int64)
    counts = np.zeros(len(lines), np.int64)
    # An id takes two bytes at least.
    ids = np.empty(len(data) // 2 + 1, np.uint64)
    is_plain, seen = np.zeros(len(lines), np.uint8), np.zeros(len(lines), np.uint64)
    struct = JsonStruct(
        data=np.frombuffer(data, np.uint8), size=len(data),
        names=np.frombuffer(b"".join(names), np.uint8),
        texts=np.frombuffer(b"".join(texts) + b"\0", np.uint8),
        name_ends=np.cumsum([len(name) for name in names]),
        text_ends=np.cumsum([len(text) for text in texts]),
        parent=np.array(parents), kind=np.array([_KINDS.index(each.kind) for each in wanted]),
        column=np.array(column), fields=len(wanted), number_columns=numbers.shape[1],
        text_columns=spans.shape[1], numbers=numbers.reshape(-1), spans=spans.reshape(-1),
        counts=counts, ids=ids, seen=seen, is_plain=is_plain,
    )  # fmt: skip
    id_count = int(_scan(struct))
    by_path = {path: numbers[:, at].copy() for at, path in enumerate(columns["number"])}
    decimals = [each.path for each in wanted if each.kind == "decimal"]
    return Scanned(
        data,
        is_plain.astype(np.bool_),
        by_path,
        {path: by_path[path].view(np.float64) for path in decimals},
        {path: spans[:, at] for at, path in enumerate(columns["text"])},
        {path: (seen >> np.uint64(at)) % 2 == 1 for at, path in enumerate(paths)},
        Ragged.from_counts(counts, ids[:id_count].view(np.int64)),
    )
