"""One file of a spool while it is written: whole frames only, on a full disk too."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from kvtrace.capture import spool

if TYPE_CHECKING:
    from io import FileIO
    from pathlib import Path


class Part:
    """A new file, appended to without a buffer: what was written outlives the process."""

    def __init__(self, path: Path) -> None:
        """Make the file.

        Raises OSError: it can't be made or its first bytes can't be written; nothing of it is left.
        """
        self._file = open_new(path)
        self.length = 0
        self.torn = False
        try:
            self.append(spool.MAGIC)
        except OSError:
            self._file.close()
            path.unlink(missing_ok=True)
            raise

    def append(self, data: bytes) -> None:
        """Write a frame, or nothing of it: half a frame is cut off again.

        Raises OSError: it can't be written whole.
        """
        if self.torn:
            self._cut()
        try:
            self._write(data)
        except OSError:
            self.torn = True
            self._cut()
            raise
        self.length += len(data)

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            written = self._file.write(rest)
            if not written:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            rest = rest[written:]

    def _cut(self) -> None:
        os.ftruncate(self._file.fileno(), self.length)
        self._file.seek(self.length)
        self.torn = False

    def close(self) -> None:
        """Sync the file to its device and close it.

        Raises OSError: what was written may not be on the device.
        """
        try:
            os.fsync(self._file.fileno())
        finally:
            self._file.close()

    def abandon(self) -> None:
        """Close this process's descriptor and nothing else."""
        self._file.close()


def open_new(path: Path) -> FileIO:
    """Open a file that doesn't exist yet, without a buffer."""
    return path.open("xb", buffering=0)
