"""Commands as processes of their own: started, signalled, and looked for afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_RUN = "import sys; from kvtrace.cli.main import main; sys.argv[0] = 'kvtrace'; main()"
_PATIENCE_S = 60


def start(*words: object, ignore_sigint: bool = False) -> subprocess.Popen[str]:
    """Start a command; its output is in its pipes."""
    command = [sys.executable, "-c", _RUN, *map(str, words)]
    if ignore_sigint:  # as nohup, cron and `&` in a script do
        command = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *command]
    return subprocess.Popen(command, stdout=-1, stderr=-1, text=True, preexec_fn=_heed_hangups)


def _heed_hangups() -> None:
    """Undo that hangups are ignored, as they are where the tests themselves run under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def wait_until(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Wait for something that a running process does."""
    for _ in range(_PATIENCE_S * 50):
        if condition():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.kill()
    raise AssertionError(process.communicate())


def children_of(pid: int) -> list[int]:
    """Return the processes that one has started, and theirs."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(words[1]) == pid:
                found += [int(entry.name), *children_of(int(entry.name))]
    return found


def alive(pids: list[int]) -> list[int]:
    """Return which of some processes run; one that has ended and isn't waited for doesn't."""

    def runs(pid: int) -> bool:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        return state != "Z"

    return [pid for pid in pids if runs(pid)]


def all_end(pids: list[int]) -> bool:
    """Return whether some processes end within a moment; end those that don't."""
    for _ in range(_PATIENCE_S * 20):
        if not alive(pids):
            return True
        time.sleep(0.05)
    for pid in alive(pids):
        os.kill(pid, signal.SIGKILL)
    return False
