"""Commands that a bench runs: how their ends are told."""

from __future__ import annotations

import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from kvtrace.cli.steps import FailedStepError, Steps
from kvtrace.errors import EXIT_INVALID, EXIT_TARGET
from replay.watch import RunInterruptedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import IO


def ends_with(steps: Steps, code: int, *, stopped: bool) -> Callable[..., int]:
    """Return what runs no command, but ends as one did."""

    def run(words: Sequence[str], output: IO[bytes] | int) -> int:
        del words
        assert output == subprocess.DEVNULL
        steps.children.stopped = stopped
        return code

    return run


@pytest.mark.parametrize("code", [-signal.SIGTERM, 4, 70])
def test_a_command_that_we_stopped_is_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Exit 5 whenever the signal came, also before the command handled any."""
    steps = Steps(tmp_path)
    monkeypatch.setattr(steps.children, "run", ends_with(steps, code, stopped=True))
    with pytest.raises(RunInterruptedError, match="stopped within kvtrace record") as raised:
        steps.run("record", "t.parquet")
    assert raised.value.exit_code == EXIT_INVALID
    assert f"exit {code}" in (tmp_path / "commands.log").read_text()


@pytest.mark.parametrize(
    ("code", "text", "exit_code"),
    [
        (3, "ended with exit code 3", 3),
        (-signal.SIGKILL, "was ended by SIGKILL", EXIT_TARGET),
        (-60, "was ended by signal 60", EXIT_TARGET),
    ],
)
def test_a_command_that_failed_keeps_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, text: str, exit_code: int
) -> None:
    """A signal of another's has no code of ours: it is the environment's, and named."""
    steps = Steps(tmp_path)
    monkeypatch.setattr(steps.children, "run", ends_with(steps, code, stopped=False))
    with pytest.raises(FailedStepError, match=text) as raised:
        steps.run("record", "t.parquet")
    assert raised.value.exit_code == exit_code
