"""Columns that are too long for memory, in temporary files that vanish by themselves."""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.errors import TargetError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

CHUNK = 1 << 16
_ITEM_BYTES = 8


class Spool:
    """A column of int64 on disk: appended to, corrected in places, read back in chunks."""

    def __init__(self) -> None:
        file = tempfile.TemporaryFile(prefix="kvtrace-", buffering=0)  # noqa: SIM115
        weakref.finalize(self, file.close)
        self._descriptor = file.fileno()
        self.count = 0

    def append(self, values: NDArray[np.int64]) -> None:
        """Add values at the end. Raises TargetError where the disk is full."""
        data = values.tobytes()
        done = 0
        while done < len(data):
            try:
                at = self.count * _ITEM_BYTES + done
                done += os.pwrite(self._descriptor, data[done:], at)
            except OSError as error:
                raise TargetError(
                    f"can't write a temporary file: {error.strerror}",
                    where=tempfile.gettempdir(),
                    hint="free some space there, or set TMPDIR",
                ) from error
        self.count += len(values)

    def put(self, index: NDArray[np.int64], values: NDArray[np.int64]) -> None:
        """Replace the values at `index`."""
        if not len(index):
            return
        with mmap.mmap(self._descriptor, self.count * _ITEM_BYTES) as mapped:
            column = np.frombuffer(mapped, np.int64)
            column[index] = values
            del column

    def read(self, begin: int, count: int) -> NDArray[np.int64]:
        """Return up to `count` values from `begin` on."""
        count = max(0, min(count, self.count - begin))
        data = os.pread(self._descriptor, count * _ITEM_BYTES, begin * _ITEM_BYTES)
        return np.frombuffer(data, np.int64)

    def chunks(self) -> Iterator[NDArray[np.int64]]:
        """Yield all values in order."""
        for begin in range(0, self.count, CHUNK):
            yield self.read(begin, CHUNK)
