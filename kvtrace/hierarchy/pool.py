"""The requests that a hierarchy has loaded and not yet finished, as the kernel's arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kvtrace import policies
from kvtrace.hierarchy import kernel
from kvtrace.requests.request import FOLLOW_NONE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kvtrace.hierarchy.hierarchy import CutRequests


class _Window:
    """Rows of integers that are appended at the end and dropped from the front."""

    def __init__(self, columns: int) -> None:
        self._kept = np.empty((1024, columns), np.int64)
        self._begin = self._end = 0

    @property
    def rows(self) -> NDArray[np.int64]:
        """The rows that are there."""
        return self._kept[self._begin : self._end]

    def drop(self, count: int) -> None:
        """Drop rows from the front."""
        self._begin += count

    def extend(self, count: int) -> NDArray[np.int64]:
        """Append rows and return them, to be filled in."""
        if self._end + count > len(self._kept):
            live, needed = self.rows, self._end - self._begin + count
            if 2 * needed > len(self._kept):
                self._kept = np.empty((3 * needed, self._kept.shape[1]), np.int64)
            self._kept[: len(live)] = live
            self._begin, self._end = 0, len(live)
        fresh = self._kept[self._end : self._end + count]
        self._end += count
        return fresh


class Pool:
    """The loaded requests; rows that are done are dropped from its front as new ones come."""

    def __init__(self, count: NDArray[np.int64]) -> None:
        self.count = count
        self._rows = _Window(kernel.ROW_COLUMNS)
        self._blocks = _Window(kernel.BLOCK_COLUMNS)

    @property
    def rows(self) -> NDArray[np.int64]:
        """A row per request."""
        return self._rows.rows

    @property
    def blocks(self) -> NDArray[np.int64]:
        """Their blocks."""
        return self._blocks.rows

    def _trim(self) -> None:
        """Drop the rows before the first that isn't done."""
        rows = self.rows
        ended = rows[:, kernel.STEP] == policies.NONE
        done = len(rows) if ended.all() else int(ended.argmin())
        if not done:
            return
        dropped = int(rows[done - 1, kernel.END] - self.count[kernel.ID_BASE])
        self._rows.drop(done)
        self._blocks.drop(dropped)
        self.count[kernel.ROW_BASE] += done
        self.count[kernel.ID_BASE] += dropped

    def add(self, cut: CutRequests) -> int:
        """Append requests; return the row number of the first."""
        self._trim()
        batch = cut.batch
        begin = self.count[kernel.ID_BASE] + len(self.blocks) + cut.blocks.begin
        rows, blocks = self._rows.extend(len(batch)), self._blocks.extend(len(cut.tokens))
        for column, values in (
            (kernel.ARRIVAL, batch.arrival_ns),
            (kernel.THINK, batch.think_ns),
            (kernel.FOLLOW, batch.follow),
            (kernel.CHAIN, batch.chain),
            (kernel.SESSION, batch.session),
            (kernel.LAST_TURN, batch.last_turn),
            (kernel.INPUT, batch.input_tokens),
            (kernel.OUTPUT, batch.output_tokens),
            (kernel.QOS, batch.qos),
            (kernel.PROMPT, cut.prompt_blocks),
            (kernel.BEGIN, begin[:-1]),
            (kernel.END, begin[1:]),
        ):
            rows[:, column] = values
        rows[:, kernel.REQUEST :] = 0
        blocks[:, kernel.B_IDENT] = cut.blocks.values
        blocks[:, kernel.B_TOKENS] = cut.tokens
        blocks[:, kernel.B_AT] = cut.at
        blocks[:, kernel.B_FLAGS] = cut.flags
        first_row = int(self.count[kernel.LOADED])
        self.count[kernel.LOADED] += len(batch)
        return first_row

    def link(self, row: int, first_row: int | None) -> None:
        """Let `first_row` follow `row`; None: nothing does."""
        index = row - int(self.count[kernel.ROW_BASE])
        self.rows[index, kernel.FOLLOW] = FOLLOW_NONE if first_row is None else first_row - row

    def chain(self, row: int) -> int:
        """Return the chain of `row`."""
        return int(self.rows[row - int(self.count[kernel.ROW_BASE]), kernel.CHAIN])
