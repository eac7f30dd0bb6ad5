"""What docs/recipes.md shows works: its blocks, run from top to bottom, print what they should."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import replay
from tests.support import places
from tests.support.command import kvtrace

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = (places.ROOT / "docs" / "recipes.md").read_text()
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```', re.MULTILINE | re.DOTALL)
RECIPES = re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
EXPECTED = {
    "Record a trace": r"<Recorded chat\.parquet: [\d,]+ rows>\n\d+ requests, \d+ of \d+ blo",
    "Open a trace and query it with polars": r"shape: \(3, 3\)[^│]*│ tier *┆ s *┆ MB",
    "Replay it on a file": r"<Result (VALID|INVALID): [\d,]+ ops>",
    "Keep a result, and read its histogram": r"<ResultDocument \w+: [\d,]+ ops> P99 \d[\d,]* ns",
    "Every op of a run": r"│ phase *┆ op *┆ len *┆ size",
    "Compare two results": r"before[\s\S]*after",
    "How large should the tiers be?": r"<WhatIf 6 combinations: hit ratio up to 0\.\d+>\nshape: ",
    "From JSONL of a production trace": r"512MiB",
    "Import another tool's log": r"write 1 P50 140 µs\nread 3 P50 9\d µs",
    "Record an engine of your own": r"captured\.parquet: 4 rows\n[\s\S]*most held: nvme 8\.00 KiB",
    "Export to other tools": r"mlperf-csv",
    "Try a policy of your own": r"16 blocks: LRU misses \d+ of \d+, ours \d+\n64 blocks: LRU",
    "Errors are of one kind": r"tiers\.cpu\.capactiy: unknown key: did you mean capacity\?",
}


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Run the whole page in a folder of its own; give what each recipe has printed."""
    folder, before = tmp_path_factory.mktemp("recipes"), Path.cwd()
    if not _takes_direct_io(folder):
        pytest.skip("no direct I/O here")
    os.chdir(folder)
    try:
        yield {title: "".join(map(_run, BLOCK.findall(text))) for title, text in RECIPES}
    finally:
        os.chdir(before)


def _takes_direct_io(folder: Path) -> bool:
    probe = folder / "probe"
    probe.write_bytes(b"")
    try:
        os.close(os.open(probe, os.O_RDWR | os.O_DIRECT))
    except OSError:
        return False
    return True


def _run(block: tuple[str, str, str]) -> str:
    """Do what a block says; return what it prints."""
    language, title, text = block
    if title:
        Path(title).write_text(text)
        return ""
    if language == "sh":
        return "".join(_command(line) for line in text.splitlines())
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(text, "recipes.md", "exec"), {"__name__": "recipe"})
    return out.getvalue()


def _command(line: str) -> str:
    ended = kvtrace(*shlex.split(line)[1:])
    assert ended.code == 0, (line, ended.err)
    return ended.out


@pytest.mark.slow
@pytest.mark.parametrize("title", EXPECTED)
def test_a_recipe_works(printed: dict[str, str], title: str) -> None:
    """It prints what is expected of it."""
    assert re.search(EXPECTED[title], printed[title]), printed[title]


def test_every_recipe_is_run() -> None:
    """Few enough to read; one that is added is expected to print something too."""
    assert [title for title, _ in RECIPES] == list(EXPECTED)
    assert 8 <= len(RECIPES) <= 14


@pytest.mark.slow
def test_what_recipes_leave_is_what_they_say(printed: dict[str, str]) -> None:
    """The file of the comparison, a result of fio's ops; a larger tier finds no less."""
    assert printed
    assert Path("compared.json").exists()
    assert replay.load("fio.json").ops == 4
    ratios = re.findall(r"│ (\d+)MiB *┆ ([\d.]+)", printed["From JSONL of a production trace"])
    values = [float(ratio) for _, ratio in ratios]
    assert len(values) == 3
    assert values == sorted(values)
    assert values[-1] > 0.4
