"""Errors that users can meet, each with its exit code."""

from __future__ import annotations

import errno
import os
from difflib import get_close_matches
from typing import TYPE_CHECKING, ClassVar

from kvtrace.show.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

EXIT_OK = 0
EXIT_USAGE = 2
EXIT_TRACE = 3
EXIT_TARGET = 4
EXIT_INVALID = 5
EXIT_BUG = 70
EXIT_INTERRUPTED = 130


class KvtraceError(Exception):
    """An error of the input or the environment, told in one line.

    The message says where it is, what was got, what is accepted and what to do, as far as each is
    known: ``where: problem: got X; accepted: Y; do Z``.
    """

    exit_code: ClassVar[int] = EXIT_USAGE

    def __init__(
        self,
        problem: str,
        *,
        where: object = None,
        got: object = None,
        accepted: object = None,
        hint: str | None = None,
    ) -> None:
        self.problem = problem
        self.where = where
        self.got = got
        self.accepted = accepted
        self.hint = hint
        problem = " ".join(problem.split())
        head = problem if where is None else f"{where}: {problem}"
        details = [] if got is None else [f"got {' '.join(_short(got).split())}"]
        if accepted is not None:
            details.append(f"accepted: {accepted}")
        if hint is not None:
            details.append(hint)
        line = head if not details else f"{head}: {'; '.join(details)}"
        super().__init__(printable(_cut(line, _LINE_CHARS)))


_GOT_CHARS, _LINE_CHARS = 200, 2000
"""Longest quoted value and longest message, in characters: inputs may be of any size."""


def _short(got: object) -> str:
    """Return what was got, cut; integers may be too long for Python to print."""
    try:
        text = str(got)
    except ValueError:
        text = f"an integer of {got.bit_length()} bits" if isinstance(got, int) else "a long value"
    return _cut(text, _GOT_CHARS)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"


class UsageError(KvtraceError):
    """An option, name or configuration key that isn't accepted."""

    exit_code = EXIT_USAGE


class TraceError(KvtraceError):
    """An input file (trace, request file, model) that can't be read as what it should be."""

    exit_code = EXIT_TRACE


class TargetError(KvtraceError):
    """A target or an environment that can't do, or must not be asked to do, what was wanted."""

    exit_code = EXIT_TARGET


def unknown_name(kind: str, got: str, known: Iterable[str], *, where: object = None) -> UsageError:
    """Return the error for an unknown name, with the nearest known ones."""
    names = sorted(known)
    near = get_close_matches(got, names, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else None
    return UsageError(
        f"unknown {kind}", where=where, got=repr(got), accepted=", ".join(names), hint=hint
    )


_REMEDIES = {
    errno.EMFILE: "raise the limit (ulimit -n)",
    errno.EFBIG: "raise the limit (ulimit -f), or name a place that holds larger files",
    errno.ENOENT: "name a place that exists",
    errno.EROFS: "name another place",
    errno.EACCES: "name another place",
    errno.EPERM: "name another place",
}


def write_failure(where: object, error: OSError) -> TargetError:
    """Return the error for an output that can't be written."""
    return TargetError(
        f"can't write: {os.strerror(error.errno) if error.errno else error}",
        where=where,
        hint=_REMEDIES.get(error.errno or 0, "free space or name another place"),
    )


_SHORTAGES = (
    "can't start new thread",
    "Resource temporarily unavailable",
    "annot allocate memory",
    "failed to map segment",
    "Too many open files",
    "ThreadPoolBuildError",
    "terminated abruptly",
)
"""Messages of packages' own errors where a resource limit was met."""


def limit_met(error: BaseException) -> TargetError | None:
    """Return the error for what the environment refused: memory, files, threads; else None."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError):
            return TargetError("not enough memory", hint="raise the limit (ulimit -v) or free some")
        if isinstance(cause, OSError):
            problem = os.strerror(cause.errno) if cause.errno else str(cause)
            return TargetError(problem, where=cause.filename, hint=_REMEDIES.get(cause.errno or 0))
        if any(text in str(cause) for text in _SHORTAGES):
            first = str(cause).strip().splitlines()[0]
            return TargetError(first, hint="raise the limits (ulimit -u, -v, -n) or free some")
        cause = cause.__cause__
    return None
