"""Runs the command line in this process, and says what came of it."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvtrace.cli.main import main
from kvtrace.errors import KvtraceError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CRASHED = 70
_FRAME = re.compile(r'File "[^"]*/((?:kvtrace|replay)/[^"]+)", line (\d+)')


@dataclass(frozen=True, slots=True)
class Ended:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def signature(self) -> str:
        """Where a crash was: exception and innermost line of ours."""
        frames = _FRAME.findall(self.err)
        lines = [line for line in self.err.strip().splitlines() if re.match(r"[\w.]+: |\w+$", line)]
        problem = lines[-2] if len(lines) > 1 and "this is a bug" in lines[-1] else lines[-1:]
        kind = str(problem if isinstance(problem, str) else "".join(problem)).partition(":")[0]
        return f"{kind} at {':'.join(frames[-1]) if frames else 'unknown'}"


def run(argv: Sequence[str]) -> Ended:
    """Run `kvtrace` with these arguments."""

    def call() -> None:
        sys.argv = ["kvtrace", *argv]
        main()

    return captured(call)


def captured(call: Callable[[], None]) -> Ended:
    """Return what a call printed, and the exit code that it has on the command line."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            call()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except KvtraceError as error:
            print(f"kvtrace: error: {error}", file=err)
            code = error.exit_code
        except BaseException:  # polars' panics aren't Exceptions
            import traceback

            traceback.print_exc(file=err)
            code = CRASHED
    return Ended(code, out.getvalue(), err.getvalue())
