"""A command of ours that another one runs, in a process that ends with it."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

import kvtrace
from kvtrace.cli.running import handling

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_PR_SET_PDEATHSIG = 1  # Source: include/uapi/linux/prctl.h
_CODE = "from kvtrace.cli.child import main; main({parent})"


def main(parent: int) -> None:
    """Run the command line as a child of the process `parent`."""
    follow(parent)
    from kvtrace.cli.main import main as command_line

    command_line()


def follow(parent: int) -> None:
    """Be stopped in good order when the parent dies, of whatever."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it has died before we asked
        signal.raise_signal(signal.SIGTERM)


class Children:
    """Runs commands one after the other. `stopped`: a signal came, and was passed on."""

    def __init__(self) -> None:
        self.stopped = False

    def run(self, words: Sequence[str], output: IO[bytes] | int) -> int:
        """Run `kvtrace` with these words; return its exit code.

        SIGINT, SIGTERM and SIGHUP are passed on as SIGTERM, which a command can't have inherited as
        ignored; a second one ends it at once. It is in a process group of its own, so that a
        Ctrl-C doesn't reach it twice.
        """
        # -P: this very package, whatever lies in the folder that it is started in.
        command = [sys.executable, "-P", "-c", _CODE.format(parent=os.getpid()), *words]
        process = subprocess.Popen(command, stdout=output, env=_environment(), process_group=0)
        with self._passing_on(process):
            return process.wait()

    def wait(self, wait_s: float) -> None:
        """Wait between two commands, no longer than until a signal comes."""
        ended = threading.Event()

        def handle(_number: int, _frame: object) -> None:
            self.stopped = True
            ended.set()

        with handling(handle):
            ended.wait(wait_s)

    @contextmanager
    def _passing_on(self, process: subprocess.Popen[bytes]) -> Iterator[None]:
        def handle(_number: int, _frame: object) -> None:
            self.stopped = True
            process.send_signal(signal.SIGTERM)

        with handling(handle):
            yield


def _environment() -> dict[str, str]:
    """Return the environment in which Python finds this very package."""
    places = [str(Path(kvtrace.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(place for place in places if place)}
