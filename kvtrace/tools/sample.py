"""A seeded sample of a trace's sessions, and all rows that their objects need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.errors import UsageError
from kvtrace.native.hashmap import MISSING, Interner
from kvtrace.tools.ids import mixed
from kvtrace.trace.schema import Op, Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from kvtrace.trace.reader import Columns, Trace

_TOP = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Share:
    """How many sessions: a number of them, or a ratio of all."""

    count: int | None = None
    ratio: float | None = None


def parse_share(text: str, *, where: str) -> Share:
    """Return what ``50`` (sessions), ``10%`` or ``0.1`` says. Raises UsageError."""
    try:
        if text.isdigit() and int(text) > 0:
            return Share(count=int(text))
        ratio = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        ratio = 0.0
    if not 0 < ratio <= 1:
        raise UsageError(
            "not a part of the sessions", where=where, got=repr(text), accepted="e.g. 50, 10%, 0.1"
        )
    return Share(ratio=ratio)


def need_sessions(trace: Trace, *, where: str) -> None:
    """Raise UsageError for a trace without sessions."""
    if "session" not in trace.columns:
        raise UsageError(
            "the trace has no sessions",
            where=where,
            got=", ".join(trace.columns),
            accepted="a trace with the column `session`",
        )


class SessionSample:
    """Says which rows a sample of sessions needs.

    These are all that happens to the objects that its sessions touch, but for other sessions'
    reads and look-ups: an object that was evicted and stored again on another session's behalf
    must be so here as well. Memory grows with those objects. `rows(names)` gives the rows to choose
    from, and is called anew for each pass over them.
    """

    def __init__(
        self, share: Share, seed: int, rows: Callable[[tuple[str, ...]], Iterator[Columns]]
    ) -> None:
        self._seed = seed
        self._threshold = np.uint64(0)
        if share.ratio is not None:
            self._threshold = np.uint64(min(_TOP, int(share.ratio * (1 << 64))))
        else:
            assert share.count is not None
            self._threshold = self._nth(share.count, rows(("session",)))
        self._keys = Interner()
        for columns in rows(("op", "phase", "key", "session")):
            touched = self._of_sample(columns["session"]) & _serves(columns)
            self._keys.intern(np.unique(columns["key"][touched]).view(np.int64))

    def _nth(self, count: int, rows: Iterator[Columns]) -> np.uint64:
        """Return the number up to which `count` sessions have theirs."""
        least = np.zeros(0, np.uint64)
        for columns in rows:
            numbers = mixed(np.unique(_known(columns["session"])), self._seed)
            least = np.unique(np.concatenate((least, numbers)))[:count]
        return np.uint64(0) if not len(least) else np.uint64(least[-1])

    def _of_sample(self, session: NDArray[Any]) -> NDArray[np.bool_]:
        chosen = mixed(np.ma.getdata(session), self._seed) <= self._threshold
        kept: NDArray[np.bool_] = chosen & ~np.ma.getmaskarray(session)
        return kept

    def keep(self, columns: Columns) -> NDArray[np.bool_]:
        """Return which of some rows are kept."""
        known = self._keys.find(columns["key"].view(np.int64)) != MISSING
        asks = (columns["op"] == Op.READ) & (columns["phase"] != Phase.EVICT)
        asks |= columns["op"] == Op.LOOKUP
        kept: NDArray[np.bool_] = known & (~asks | self._of_sample(columns["session"]))
        return kept


def _known(session: NDArray[Any]) -> NDArray[np.uint64]:
    values: NDArray[np.uint64] = np.ma.getdata(session)[~np.ma.getmaskarray(session)]
    return values


def _serves(columns: Columns) -> NDArray[np.bool_]:
    """Return which rows serve their session; what it merely pushes out isn't its own."""
    serves: NDArray[np.bool_] = columns["phase"] != Phase.EVICT
    return serves
