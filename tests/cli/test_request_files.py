"""Request files on the command line: refusals leave nothing; summaries tell of the source."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from kvtrace.errors import EXIT_TRACE, EXIT_USAGE
from tests.kvtrace.request_files import BURSTGPT_HEADER, GOOD, good, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.conftest import Outcome

    Cli = Callable[..., Outcome]

BURSTGPT = BURSTGPT_HEADER + "5,ChatGPT,472,18,490,Conversation log\n"


@pytest.mark.parametrize("name", GOOD)
def test_nothing_is_written(tmp_path: Path, cli: Cli, name: str) -> None:
    """The command ends with one line and exit code 3, and leaves nothing behind."""
    inputs = tmp_path / "in"
    inputs.mkdir()
    good(inputs, name)
    write(inputs / "zz", "not a trace of anything\n")
    outcome = cli("record", tmp_path / "out.parquet", "--source", name, "--input", inputs)
    assert outcome.code == EXIT_TRACE
    assert str(inputs / "zz") in outcome.error
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_unused_option(tmp_path: Path, cli: Cli) -> None:
    """An option without effect for the source is refused on the command line, too."""
    path = good(tmp_path, "mooncake")
    out = tmp_path / "out.parquet"
    outcome = cli("record", out, "--source", "mooncake", "--input", path, "--users", 3)
    assert outcome.code == EXIT_USAGE
    assert "source.users: has no effect on source mooncake: got 3" in outcome.error
    outcome = cli("record", out, "--cycles", 2)
    assert outcome.code == EXIT_USAGE
    assert "source.cycles: has no effect on source synthetic" in outcome.error
    assert not out.exists()


def test_dry_run_tells_of_the_source(tmp_path: Path, cli: Cli) -> None:
    """`--dry-run --json` has what was left out and what isn't known."""
    path = write(tmp_path / "a.csv", BURSTGPT + "6,ChatGPT,472,0,472,Conversation log\n")
    outcome = cli(
        "record", tmp_path / "out.parquet", "--source", "burstgpt", "--input", path, "--dry-run",
        "--json",
    )  # fmt: skip
    assert outcome.code == 0
    told = json.loads(outcome.out)
    assert told["requests"] == 1
    assert told["source"]["dropped"] == {"failed: 0 response tokens": 1}
    assert "doesn't tell of reuse" in told["source"]["notes"][0]
