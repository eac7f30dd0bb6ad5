"""Help comes at once: commands are imported when they are called, and packages when they work."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import typer

from kvtrace.cli.main import app, command
from tests.support.command import kvtrace

HEAVY = (
    "click", "numpy", "polars", "pyarrow", "rich.console", "tomllib", "torch", "typer._adapters",
    "yaml",
)  # fmt: skip
"""What takes long to import and makes no help; click isn't ours, as typer has one inside."""
NAMES = typer.main.get_command(app).list_commands(None)  # type: ignore[attr-defined]
HELP = """
import contextlib, io, json, sys
from kvtrace.cli.main import main
sys.argv = ["kvtrace", *sys.argv[1:], "--help"]
with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
    main()
assert shown.getvalue().startswith("Usage: kvtrace"), shown.getvalue()
pydantic = sys.modules.get("pydantic")
kinds = [pydantic.BaseModel] if pydantic else []
for kind in kinds:
    kinds += kind.__subclasses__()
built = [kind.__name__ for kind in kinds[1:] if kind.__pydantic_complete__]
print(json.dumps([sorted(sys.modules), built]))
"""


def state(*words: str) -> tuple[set[str], list[str]]:
    """Return what a process has when it has printed a help: modules, models that can validate."""
    run = subprocess.run(
        [sys.executable, "-P", "-c", HELP, *words], capture_output=True, text=True, check=True
    )
    imported, built = json.loads(run.stdout)
    return set(imported), built


@pytest.mark.parametrize("name", NAMES)
def test_help_of_a_command_imports_no_heavy_package(name: str) -> None:
    """The help of a command is made of its options alone; no model is made ready for values."""
    imported, built = state(name)
    assert imported & set(HEAVY) == set()
    assert built == []


def test_help_of_all_imports_no_command() -> None:
    """The list of commands is made without any of them, nor the models of their options."""
    imported, _ = state()
    assert imported.isdisjoint({*HEAVY, "pydantic", "kvtrace.recording.config", "replay"})
    assert "kvtrace.cli.record" not in imported


@pytest.mark.parametrize("name", NAMES)
def test_summary_is_that_of_the_command(name: str) -> None:
    """The line of a command in the list is the first paragraph of its own help."""
    words = command(name).help.partition("\n\n")[0].split()
    assert " ".join(words) in " ".join(kvtrace("--help").out.split())


def test_an_unknown_command_is_answered_with_the_nearest() -> None:
    """A command is suggested although none was imported."""
    outcome = kvtrace("recrd")
    assert outcome.code == 2
    assert "No such command 'recrd'. Did you mean 'record', 'recover'?" in outcome.err
    assert "Usage: kvtrace record [OPTIONS] OUT" in kvtrace("record", "--help").out
