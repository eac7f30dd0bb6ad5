"""Runs the command line, in this process or in one of its own."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest import mock

from kvtrace.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Sequence

APART = (sys.executable, "-P", "-c", "from kvtrace.cli.main import main; main()")


@dataclass(frozen=True)
class Ended:
    """What a command did: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line of an error, the last on stderr; fails if there is none, or a traceback."""
        lines = self.err.strip().splitlines()
        assert [line for line in lines if "error:" in line] == lines[-1:], self.err
        return lines[-1]


class Outcome(Ended):
    """What a command did that prints an error and nothing else to stderr."""

    @property
    def error(self) -> str:
        """The one line of an error; fails if it isn't one line."""
        lines = self.err.strip().splitlines()
        assert len(lines) == 1, self.err
        return lines[0]


def kvtrace(*words: object) -> Ended:
    """Run a command in this process."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.object(sys, "argv", ["kvtrace", *map(str, words)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
    return Ended(code, out.getvalue(), err.getvalue())


def apart(*words: object, shell: Sequence[str] = (), **more: Any) -> Ended:
    """Run a command in a process of its own, behind the words of `shell`."""
    options: dict[str, Any] = {"timeout": 300, **more}
    ended = subprocess.run(
        [*shell, *APART, *map(str, words)], capture_output=True, check=False, **options
    )
    texts = (stream.decode(errors="replace") for stream in (ended.stdout, ended.stderr))
    return Ended(ended.returncode, *texts)
