"""Metrics as a file for node_exporter's textfile collector, replaced whole while a run goes on."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Self

from kvtrace.errors import KvtraceError, UsageError, write_failure
from kvtrace.files.drafts import Draft
from kvtrace.files.outputs import Reservation, check_writable
from replay.metrics.prometheus import check_package

if TYPE_CHECKING:
    from pathlib import Path

    from replay.metrics.prometheus import Metrics

SUFFIX = ".prom"
"""node_exporter reads no other."""
PERIOD_S = 1.0
_OURS = b"# HELP kvtrace_"
"""First line of each file written here."""


class MetricsFile:
    """Keeps `path` up to date in a thread of its own; what it says last stays when the run is over.

    A file of an earlier run is replaced; any other only with `force`.
    """

    def __init__(self, metrics: Metrics, path: Path, *, force: bool) -> None:
        check_package("--metrics-textfile")
        if path.suffix != SUFFIX:
            raise UsageError(
                "node_exporter wouldn't read it",
                where=path,
                accepted=f"a name that ends in {SUFFIX}",
            )
        check_writable(path, force=force or _is_ours(path))
        self._metrics, self._path = metrics, path
        self._written: object = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        self._reservation = Reservation(self._path)
        try:
            self._write()
        except KvtraceError:
            self._reservation.close()
            raise
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        """Write the last state. Raises TargetError if it can't be written."""
        self._over.set()
        self._thread.join()
        try:
            self._write()
        finally:
            self._reservation.close()

    def _follow(self) -> None:
        while not self._over.wait(PERIOD_S):
            try:
                self._write()
            except KvtraceError:
                continue  # it may be possible again; the end tells if it isn't

    def _write(self) -> None:
        version = self._metrics.version
        if version is self._written:
            return
        draft = Draft(self._path, force=True)
        try:
            draft.file.write(self._metrics.text())
        except OSError as error:
            draft.discard()
            raise write_failure(self._path, error) from error
        draft.publish()
        self._written = version


def _is_ours(path: Path) -> bool:
    """Return whether a file is one that was written here. Raises TargetError."""
    try:
        with path.open("rb") as file:
            return file.read(len(_OURS)) == _OURS
    except FileNotFoundError:
        return False
    except OSError as error:
        raise write_failure(path, error) from error
