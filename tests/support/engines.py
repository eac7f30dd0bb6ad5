"""Environments with real inference engines, made by `make test-engines`, and their programs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import places

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PROGRAMS = places.ROOT / "tests" / "engines"
VLLM = places.ROOT / "build" / "engines" / "vllm"


def needs(environment: Path) -> list[pytest.MarkDecorator]:
    """Return the marks of tests that run in an environment."""
    reason = f"{environment.relative_to(places.ROOT)} isn't there: run `make test-engines`"
    return [
        pytest.mark.slow,
        pytest.mark.skipif(not (environment / ".installed").exists(), reason=reason),
    ]


def own_network() -> bool:
    """Return whether this user may make a network, for servers that listen on all interfaces."""
    if shutil.which("unshare") is None:
        return False
    tried = subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False)
    return tried.returncode == 0


def command(environment: Path, program: str, *arguments: str) -> list[str]:
    """Return the command line of a program of `tests/engines`."""
    return [str(environment / "bin" / "python"), str(PROGRAMS / program), *arguments]


def variables(**more: str) -> dict[str, str]:
    """Return an environment in which engines import kvtrace from this checkout."""
    return {**os.environ, "PYTHONPATH": f"{places.ROOT}{os.pathsep}{PROGRAMS}", **more}


def run(
    environment: Path, program: str, *arguments: str, before: Sequence[str] = (),
    timeout_s: float = 400,
) -> Any:  # fmt: skip
    """Run a program and return the JSON of the last line that it prints.

    `before`: a command that runs it.
    """
    done = subprocess.run(
        [*before, *command(environment, program, *arguments)],
        env=variables(), capture_output=True, text=True, timeout=timeout_s, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])
