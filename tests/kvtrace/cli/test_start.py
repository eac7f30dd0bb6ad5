"""Help comes at once: commands are imported when they are called, and packages when they work."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import typer

from kvtrace.cli.main import app, command
from tests.support.command import kvtrace
from tests.support.examples import rest_slow

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

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
RUN = """
import contextlib, importlib.metadata, io, json, os, sys
groups, entry_points = [], importlib.metadata.entry_points
def spied(**asked):
    groups.append(asked.get("group"))
    return entry_points(**asked)
importlib.metadata.entry_points = spied
os.environ.pop("PYDANTIC_DISABLE_PLUGINS", None)
from kvtrace.cli.main import main
sys.argv = ["kvtrace", *sys.argv[1:]]
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main()
print(json.dumps([sorted(sys.modules), groups]))
"""
"""Says after a command what it has imported, and whose plug-ins it has looked for."""
UNASKED = (
    "altair", "http.server", "msgpack", "polars", "prometheus_client", "torch", "xlsxwriter",
)  # fmt: skip
"""What forms of reports, metrics and other tools' formats need, and nothing else."""


def state(*words: str) -> tuple[set[str], list[str]]:
    """Return what a process has when it has printed a help: modules, models that can validate."""
    return _told(HELP, words)


def _told(program: str, words: Iterable[object]) -> tuple[set[str], list[str]]:
    run = subprocess.run(
        [sys.executable, "-P", "-c", program, *map(str, words)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    imported, others = json.loads(run.stdout)
    return set(imported), others


@pytest.mark.slow
@pytest.mark.parametrize("name", rest_slow(NAMES, quick=3))
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


@pytest.mark.slow
def test_a_run_imports_what_it_uses(tmp_path: Path, small_trace: Path) -> None:
    """Packages of reports, metrics and formats aren't imported where none is asked for."""
    out = tmp_path / "trace.parquet"
    for words in (
        ("record", out, "--model", "tiny-1b", "--requests", "3"),
        ("check", small_trace),
        ("replay", small_trace, "--target", "null", "--mode", "max", "--min-window", "0s"),
    ):
        imported, groups = _told(RUN, words)
        assert "pyarrow" in imported, words
        assert imported & set(UNASKED) == set(), words
        assert "pydantic" not in groups, words
    assert out.exists()


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
