"""Standard output and error that may be closed, full, or unable to print what is said."""

from __future__ import annotations

import errno
import io
import os
import sys
from contextlib import suppress
from typing import TextIO

from kvtrace.errors import EXIT_OK, EXIT_TARGET


class _Sink(io.FileIO):
    """Writes to a descriptor; after the first failure everything goes nowhere."""

    failure: OSError | None = None

    def write(self, data: object) -> int:
        """Write bytes; never raise."""
        if self.failure is None:
            try:
                return super().write(data)  # type: ignore[arg-type]
            except OSError as error:
                self.failure = error
        return memoryview(data).nbytes  # type: ignore[arg-type]


class Streams:
    """The process's own output streams, guarded until `end`.

    No result is lost because it can't be printed: such output is dropped, and
    characters that a terminal can't show are escaped.
    """

    def __init__(self) -> None:
        _occupy_descriptors()
        self._out = _guarded("stdout")
        self._err = _guarded("stderr")

    def end(self, code: int) -> int:
        """Flush; return the exit code: another one than `code` if a success couldn't be told."""
        sys.stdout.flush()
        failure = None if self._out is None else self._out.failure
        if failure is not None and failure.errno != errno.EPIPE and code == EXIT_OK:
            print(f"kvtrace: error: standard output: {failure.strerror}", file=sys.stderr)
            code = EXIT_TARGET
        sys.stderr.flush()
        return code


def _occupy_descriptors() -> None:
    """Let no file become standard input, output or error where those are closed."""
    with suppress(OSError):
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(descriptor, True)
        os.close(descriptor)


def _guarded(name: str) -> _Sink | None:
    """Guard a stream of the interpreter's; None if it was closed or replaced."""
    stream: TextIO | None = getattr(sys, name)
    if stream is None:
        setattr(sys, name, io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace"))
        return None
    if stream is not getattr(sys, f"__{name}__") or not isinstance(stream, io.TextIOWrapper):
        return None
    sink = _Sink(stream.fileno(), "w", closefd=False)
    guarded = io.TextIOWrapper(
        io.BufferedWriter(sink),
        stream.encoding,
        "backslashreplace",
        line_buffering=stream.line_buffering,
    )
    stream.flush()
    setattr(sys, name, guarded)
    setattr(sys, f"__{name}__", guarded)
    return sink
