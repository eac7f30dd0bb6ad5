"""Commands that a bench runs one after the other, and its log of them."""

from __future__ import annotations

import shlex
import signal
import subprocess
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from kvtrace.cli.child import Children
from kvtrace.errors import EXIT_TARGET, KvtraceError
from replay.compare.folder import COMMANDS
from replay.watch import RunInterruptedError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Steps:
    """Runs commands, each in a process of its own, and keeps a log of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.children = Children()

    def note(self, at: datetime, words: Sequence[str], outcome: str) -> None:
        """Add a line to the log: when something began, what it was, how it ended."""
        with (self.folder / COMMANDS).open("a", encoding="utf-8") as log:
            log.write(f"{at:%Y-%m-%dT%H:%M:%SZ} {shlex.join(words)}  # {outcome}\n")

    def run(self, *words: str, into: Path | None = None, may_end: Sequence[int] = (0,)) -> int:
        """Run `kvtrace` with these words; return its exit code.

        What it prints goes to `into`. Raises KvtraceError for a code that may not be;
        RunInterruptedError where a signal to us ended it.
        """
        began = datetime.now(UTC)
        if into is None:
            code = self.children.run(words, subprocess.DEVNULL)
        else:
            with into.open("xb") as output:
                code = self.children.run(words, output)
        self.note(began, ("kvtrace", *words), f"exit {code}")
        if code not in may_end and self.children.stopped:
            raise RunInterruptedError(f"stopped within kvtrace {words[0]}", where=self.folder)
        if code not in may_end:
            raise FailedStepError(words[0], code)
        return code


class FailedStepError(KvtraceError):
    """A command of a bench ended in error; it has said why."""

    def __init__(self, command: str, code: int) -> None:
        how = f"ended with exit code {code}" if code >= 0 else f"was ended by {_signal(-code)}"
        super().__init__(f"kvtrace {command} {how}", hint="see above")
        self.code = code

    @property
    def exit_code(self) -> int:  # type: ignore[override]
        """That of the command; of one that a signal ended, that of the environment."""
        return self.code if self.code >= 0 else EXIT_TARGET


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
