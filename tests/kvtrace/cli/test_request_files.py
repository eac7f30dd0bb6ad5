"""Request files on the command line: refusals leave nothing; summaries tell of the source."""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, get_args

import pytest

from kvtrace.cli.record import record_command
from kvtrace.cli.whatif import whatif_command
from kvtrace.errors import EXIT_TRACE, EXIT_USAGE
from tests.support.request_files import BURSTGPT_HEADER, GOOD, good, mooncake_line, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.command import Outcome

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


def test_whatif_tells_of_the_source(tmp_path: Path, cli: Cli) -> None:
    """It says that a file tells of no reuse, what was sampled, and takes record's options."""
    lines = "".join(f"{5 * n},GPT-4,{900 + n},1,0,API log\n" for n in range(20))
    path = write(tmp_path / "a.csv", BURSTGPT_HEADER + lines)
    options = ["--input", path, "--speed", 2, "--scale-sessions", 0.5]
    outcome = cli("whatif", *options)
    assert outcome.code == 0
    text = " ".join(outcome.out.split())
    assert "the file doesn't tell of reuse: each request is a session of its own" in text
    assert "requests of 20, by whole sessions (--scale-sessions 0.5); ideal hit ratio" in text
    told = json.loads(cli("whatif", *options, "--json").out)
    assert told["source"]["name"] == "burstgpt"
    assert told["sampled"]["requests_before"] == 20
    outcome = cli("whatif", *options, "--invent-sessions", 0.5)
    assert "invented: sessions: each goes on" in " ".join(outcome.out.split())


def options_of_sources(command: Callable[..., None], panel: str) -> set[str]:
    """Return the parameters of a command that stand in a panel of its help."""
    parameters = inspect.signature(command, eval_str=True).parameters
    hints = {name.rstrip("_"): each.annotation for name, each in parameters.items()}
    return {
        name
        for name, hint in hints.items()
        if any(getattr(part, "rich_help_panel", None) == panel for part in get_args(hint)[1:])
    }


def test_whatif_takes_the_source_options_of_record() -> None:
    """Every option of record's panel of sources is one of whatif."""
    wanted = options_of_sources(record_command, "Source")
    assert {"input", "scale_sessions", "source_block_tokens"} <= wanted
    assert wanted - options_of_sources(whatif_command, "Requests") == set()


def test_record_says_what_was_sampled(tmp_path: Path, cli: Cli) -> None:
    """The summary has how many requests of how many, and the ideal hit ratio before and after."""
    lines = [mooncake_line(n, tokens=512 * n, ids=list(range(n))) for n in range(1, 9)]
    path = write(tmp_path / "a.jsonl", "".join(lines))
    outcome = cli("record", tmp_path / "t.parquet", "--input", path, "--scale-sessions", 2)
    text = " ".join(outcome.out.split())
    assert "sampled: 16 requests made of 8, by whole prefix families" in text
    assert "ideal hit ratio 0.778 before, 0.778 after" in text


def test_ids_of_another_size_are_named(tmp_path: Path, cli: Cli) -> None:
    """The option that the error names makes the file readable."""
    path = write(tmp_path / "a.jsonl", mooncake_line(0, tokens=512, ids=[1, 2]))
    outcome = cli("record", tmp_path / "t.parquet", "--input", path)
    assert outcome.code == EXIT_TRACE
    assert "got 2; accepted: 1, one per 512 tokens" in outcome.error
    assert "--source-block-tokens 256" in outcome.error
    options = ["--input", path, "--source-block-tokens", 256]
    assert cli("record", tmp_path / "t.parquet", *options).code == 0


def test_vector_search(cli: Cli, tmp_path: Path) -> None:
    """A preset of vector search prints queries, reads and the index, as text and as JSON."""
    out = tmp_path / "v.parquet"
    options = ("--preset", "vdb-diskann-10m-1536", "--requests", 50)
    outcome = cli("record", out, *options)
    assert outcome.code == 0
    assert "50 queries of 7" in outcome.out
    assert "index of 76.29 GiB: nodes of 6,372 B, reads of 8,192 B" in outcome.out
    assert "replay it with --mode closed" in outcome.out
    assert max(map(len, outcome.out.splitlines())) <= 80
    document = json.loads(cli("record", out, *options, "--force", "--json").out)
    assert document["vector_search"]["index_bytes"] == 4096 + 10**7 * 8192
    assert "requests  50" in cli("info", out).out
    assert cli("record", out, *options, "--show-config").code == 0
    refused = cli("record", tmp_path / "w.parquet", *options, "--cpu-mem", "1GiB")
    assert "tiers: has no effect on source vdb" in refused.error
