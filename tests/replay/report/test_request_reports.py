"""Requests, service levels and storage health as people and scripts read them."""

from __future__ import annotations

import csv as csv_module
import io
import re
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from replay.report import csv, html, terminal
from replay.result import stored
from tests.support.synthetic import bimodal, with_requests

if TYPE_CHECKING:
    from pathlib import Path

    from replay.result.document import ResultDocument


@pytest.fixture
def document(tmp_path: Path) -> ResultDocument:
    """A result: 100 µs, each tenth op 10 ms; four requests, one more failed."""
    return with_requests(stored.load(bimodal(tmp_path / "r.parquet")))


def printed(document: ResultDocument) -> str:
    """Return what the terminal shows, 80 columns wide."""
    console = Console(file=io.StringIO(), width=80, highlight=False)
    for part in terminal.render(document):
        console.print(part)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_the_terminal_shows_requests_and_levels(document: ResultDocument) -> None:
    """Times, both ways to judge a class, failed ones; nothing is cut at 80 columns."""
    text = printed(document)
    assert re.search(r"^end to end +100\.\dµs", text, re.MULTILINE)
    assert re.search(
        r"^interactive +50\.0% within 50 ms: MISSED +100\.0% within 50 ms: met +4",
        text,
        re.MULTILINE,
    )
    assert "1 requests failed" in text
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_terminal_shows_both_kinds_of_health(document: ResultDocument) -> None:
    """10 ms for one MiB pass MLPerf's 200 ms, and fail 1 ms per MiB; not measured is said."""
    text = printed(document)
    assert "PASS by MLPerf's criteria, 1 of 4 measured; FAIL by ours" in text
    reads = next(line for line in text.splitlines() if line.startswith("nvme reads P95"))
    assert re.split(r" {2,}", reads.strip())[1:] == [
        "< 200.0ms", "10.0ms ok", "< 1.000ms/MiB", "10.0ms/MiB FAIL"
    ]  # fmt: skip
    assert text.count("not measured") == 6


def test_nothing_is_said_of_health_where_nothing_is_known(document: ResultDocument) -> None:
    """A result of the schema before, or of other tiers."""
    assert "storage health" not in printed(document.model_copy(update={"storage_health": None}))


@pytest.mark.slow
def test_the_page_shows_them(document: ResultDocument) -> None:
    """Sections with tables, and which of the two judges storage."""
    text = html.text(document)
    for expected in ("<h2>Requests</h2>", "<h2>Storage health</h2>",
                     "50.0% within 50 ms: MISSED", "100.0% within 50 ms: met",
                     "1 requests failed", "judge it by the waiting", "10.0ms/MiB FAIL",
                     "Storage Tier Read Device P95 &lt; 200ms"):  # fmt: skip
        assert expected in text, expected
    plain = html.text(document.model_copy(update={"requests": None, "storage_health": None}))
    assert "<h2>Requests</h2>" not in plain
    assert "<h2>Storage health</h2>" not in plain


def test_the_table_has_their_rows(document: ResultDocument, tmp_path: Path) -> None:
    """All, and each class; three times each."""
    csv.write(document, tmp_path / "r.csv")
    with (tmp_path / "r.csv").open() as file:
        rows = [row for row in csv_module.DictReader(file) if row["time"].startswith("request ")]
    assert [(row["qos"], row["time"]) for row in rows] == [
        (qos, f"request {time}")
        for qos in ("", "interactive")
        for time in ("end to end", "storage I/O", "waited")
    ]
    assert {(row["ops"], row["errors"]) for row in rows} == {("4", "1")}
    assert int(rows[0]["p99_ns"]) == document.service_ns.p99
