"""The trace format, version 1: words, columns and units. `docs/trace-format.md` explains it."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

    import pyarrow as pa

FORMAT_VERSION = 1
CAPTURE_VERSION = "1.1"
FORMAT_HISTORY: Mapping[int | str, str] = MappingProxyType(
    {
        FORMAT_VERSION: "first version: six required columns, optional columns, JSON header under "
        "`kvtrace`",
        CAPTURE_VERSION: "columns `batch` and `position`, header `capture`",
    }
)
"""Versions as a header states them. A file states the first one that has all that it uses."""
HEADER_KEY = b"kvtrace"
ROW_GROUP_ROWS = 1 << 20
NODE_SHIFT = 48
"""In a trace of several nodes, the node's number is in the top bits of keys, from this one on."""
MAX_SIZE_BYTES = 1 << 40
"""Longest object, and so the largest `offset + size` of an op; more is taken for damage."""
MAX_TOTAL_BYTES = 1 << 62
"""Sum of the ends of all ops, and of all residents: no sum of bytes overflows 64 bits below it."""
MAX_TIME_NS = (1 << 62) - 1
"""Latest time, 146 years: a start on the machine's clock can be added without an overflow."""
MAX_RESIDENTS = (1 << 29) // 17
"""Most objects that a list of residents holds: 512 MiB of them."""


def _arrow() -> ModuleType:
    # Help reads the words of the format, and must not wait for Arrow.
    import pyarrow

    return pyarrow  # type: ignore[no-any-return]


class Word(IntEnum):
    """A word of the trace: its wire value is its index in the column's dictionary."""

    @property
    def label(self) -> str:
        """The word as it stands in a trace and on the command line."""
        return self.name.lower()


class Op(Word):
    """What is done to an object."""

    READ = 0
    WRITE = 1
    DELETE = 2
    LOOKUP = 3


class Tier(Word):
    """A level of the cache, fastest first."""

    GPU = 0
    CPU = 1
    NVME = 2
    OBJECT = 3


class Phase(Word):
    """Why an op is done."""

    PREFILL = 0
    DECODE = 1
    EVICT = 2
    PROMOTE = 3


class Qos(Word):
    """How urgent the request is."""

    INTERACTIVE = 0
    RESPONSIVE = 1
    BATCH = 2


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the format.

    `kind`: its Arrow type by name, or `word` of a dictionary column, whose vocabulary is `words`.
    `since`: the version of the format that brought it.
    """

    name: str
    kind: str
    unit: str
    meaning: str
    required: bool = False
    words: type[Word] | None = None
    since: int | str = FORMAT_VERSION

    @property
    def type(self) -> pa.DataType:
        """The Arrow type."""
        pa = _arrow()
        if self.words:
            return pa.dictionary(pa.int8(), pa.string())
        return pa.type_for_alias(self.kind)

    @property
    def field(self) -> pa.Field:
        """The Arrow field, with unit and meaning as metadata."""
        metadata = {"unit": self.unit, "meaning": self.meaning}
        return _arrow().field(self.name, self.type, nullable=not self.required, metadata=metadata)

    @property
    def width(self) -> int:
        """Bytes of one value in canonical form (a dictionary column: its index)."""
        return 1 if self.words else self.type.bit_width // 8


COLUMNS: tuple[Column, ...] = (
    Column("timestamp", "int64", "ns", "since the start of the trace; never decreases", True),
    Column("op", "word", "word", "what is done", True, Op),
    Column("size", "uint64", "bytes", "bytes the op moves; of a delete: the object's", True),
    Column("tier", "word", "word", "where it is done", True, Tier),
    Column("key", "uint64", "id", "identity of the object: equal keys, equal bytes", True),
    Column("phase", "word", "word", "why it is done", True, Phase),
    Column("request", "uint64", "id", "the inference request on whose behalf"),
    Column("session", "uint64", "id", "the request's conversation"),
    Column("step", "uint16", "index", "0 lookup, 1 load, 2 prefill store, 3 and up decode"),
    Column("rank", "uint16", "index", "tensor-parallel rank that owns the object"),
    Column("block", "uint64", "id", "logical block the object belongs to"),
    Column("offset", "uint64", "bytes", "where in the object the op starts; null is 0"),
    Column("qos", "word", "word", "the request's class of urgency", False, Qos),
    Column("due", "int64", "ns", "when the op should have been submitted"),
    Column("submit", "int64", "ns", "when the op was submitted"),
    Column("complete", "int64", "ns", "when the op completed"),
    Column("error", "int32", "errno", "0, or why the op failed or moved nothing"),
    Column("batch", "uint32", "id", "ops that were submitted as one task", since=CAPTURE_VERSION),
    Column("position", "uint16", "index", "of the op in its batch", since=CAPTURE_VERSION),
)
BY_NAME: Mapping[str, Column] = MappingProxyType({column.name: column for column in COLUMNS})
REQUIRED: tuple[Column, ...] = tuple(column for column in COLUMNS if column.required)


MOVED_NOTHING = (errno.ENOENT, errno.EEXIST, errno.ECANCELED)
"""Errors of ops that did nothing: a look-up or read that missed, a store that was skipped or
refused, an op in flight when the recording ended. With another error some bytes may have moved."""


def words_array(words: type[Word]) -> pa.Array:
    """Return the dictionary of a word column, in wire order."""
    pa = _arrow()
    return pa.array([word.label for word in words], pa.string())
