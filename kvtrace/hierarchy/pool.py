"""The requests that a hierarchy has loaded and not yet finished, as the compiled code's arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kvtrace.hierarchy import native
from kvtrace.native.library import contiguous
from kvtrace.requests.request import FOLLOW_NONE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kvtrace.hierarchy.hierarchy import CutRequests


class _Window:
    """Rows that are appended at the end and dropped from the front."""

    def __init__(self, dtype: np.dtype[np.void]) -> None:
        self._kept = np.empty(1024, dtype)
        self._begin = self._end = 0

    @property
    def rows(self) -> NDArray[np.void]:
        """The rows that are there."""
        return self._kept[self._begin : self._end]

    def drop(self, count: int) -> None:
        """Drop rows from the front."""
        self._begin += count

    def extend(self, count: int) -> NDArray[np.void]:
        """Append rows and return them, to be filled in."""
        if self._end + count > len(self._kept):
            live, needed = self.rows, self._end - self._begin + count
            if 3 * needed > 2 * len(self._kept):
                self._kept = np.empty(2 * needed, self._kept.dtype)
            self._kept[: len(live)] = live
            self._begin, self._end = 0, len(live)
        fresh = self._kept[self._end : self._end + count]
        self._end += count
        return fresh


class Pool:
    """The loaded requests; rows that are done are dropped from its front as new ones come."""

    def __init__(self, struct: native.HierarchyStruct) -> None:
        self.struct = struct
        self._rows = _Window(native.REQUEST)
        self._blocks = _Window(native.BLOCK)

    @property
    def rows(self) -> NDArray[np.void]:
        """A row per request."""
        return self._rows.rows

    @property
    def blocks(self) -> NDArray[np.void]:
        """Their blocks."""
        return self._blocks.rows

    def _trim(self) -> None:
        """Drop the rows before the first that isn't done."""
        rows = self.rows
        ended = rows["step"] == native.NONE
        done = len(rows) if ended.all() else int(ended.argmin())
        if not done:
            return
        dropped = int(rows["end"][done - 1]) - self.struct.block_base
        self._rows.drop(done)
        self._blocks.drop(dropped)
        self.struct.request_base += done
        self.struct.block_base += dropped

    def add(self, cut: CutRequests) -> int:
        """Append requests; return the row number of the first."""
        self._trim()
        batch = cut.batch
        begin = self.struct.block_base + len(self.blocks) + cut.blocks.begin
        rows, blocks = self._rows.extend(len(batch)), self._blocks.extend(len(cut.tokens))
        rows[:] = 0
        for name in (
            "arrival_ns", "think_ns", "follow", "chain", "session", "last_turn", "input_tokens",
            "output_tokens", "qos",
        ):  # fmt: skip
            rows[name] = getattr(batch, name)
        rows["prompt_blocks"] = cut.prompt_blocks
        rows["begin"], rows["end"] = begin[:-1], begin[1:]
        columns = (cut.blocks.values, cut.tokens, cut.at, cut.flags)
        native.load_blocks(
            blocks.view(np.int64),
            len(blocks),
            *(contiguous(values, np.int64) for values in columns),
        )
        first_row: int = self.struct.loaded
        self.struct.loaded += len(batch)
        return first_row

    def link(self, row: int, first_row: int | None) -> None:
        """Let `first_row` follow `row`; None: nothing does."""
        follow = FOLLOW_NONE if first_row is None else first_row - row
        self.rows["follow"][row - self.struct.request_base] = follow

    def chain(self, row: int) -> int:
        """Return the chain of `row`."""
        return int(self.rows["chain"][row - int(self.struct.request_base)])
