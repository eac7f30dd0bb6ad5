"""A new figure is one field and one row: every form of report and the schema have it."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

import openpyxl
import pytest
from pydantic import Field
from rich.console import Console

from replay import report
from replay.measure.figures import LaneDocument
from replay.report import terminal
from replay.report.sections import lanes
from replay.report.sections.parts import Figure, Kind
from replay.result import schema, stored
from replay.result.document import ResultDocument
from tests.support.synthetic import one_stall

if TYPE_CHECKING:
    from pathlib import Path

STALLED_NS = 987_654_321


class Lane(LaneDocument):
    """A tier with one more figure: this is the field."""

    stalled_ns: int = Field(STALLED_NS, description="time in which nothing completed")


class Result(ResultDocument):
    """A result of such tiers."""

    lanes: list[Lane]  # type: ignore[assignment]


ROW = Figure("stalled", "stalled_ns", Kind.NS, column=True)


@pytest.fixture
def document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Result:
    """A result with the figure, and the row that shows it."""
    monkeypatch.setattr(lanes, "FIGURES", (*lanes.FIGURES, ROW))
    old = stored.load(one_stall(tmp_path / "r.parquet"))
    return Result.model_validate_json(old.model_dump_json())


@pytest.mark.slow
def test_documents_and_their_schema_have_it(document: Result, tmp_path: Path) -> None:
    """By its name, with its unit and its meaning."""
    report.write(document, tmp_path / "r.json")
    [lane] = json.loads((tmp_path / "r.json").read_text())["lanes"]
    assert lane["stalled_ns"] == STALLED_NS
    field = schema.schema(Result)["$defs"]["Lane"]["properties"]["stalled_ns"]
    assert (field["type"], field["unit"]) == ("integer", "ns")
    assert field["description"] == "time in which nothing completed"
    assert "stalled_ns" not in schema.text()


@pytest.mark.slow
def test_people_read_it(document: Result, tmp_path: Path) -> None:
    """In the tier's section of the page, and of the terminal's full report."""
    console = Console(file=io.StringIO(), width=80, highlight=False)
    for part in terminal.render(document):
        console.print(part)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    section = printed.split("\nTier nvme\n")[1].split("\n\n")[0]
    assert any(line.split() == ["stalled", "987.7", "ms"] for line in section.splitlines())
    report.write(document, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text().split("<h2>Tier nvme</h2>")[1].split("<h2>")[0]
    assert '<th scope="row">stalled</th><td class="text">987.7 ms</td>' in page


@pytest.mark.slow
def test_tables_for_scripts_have_it(document: Result, tmp_path: Path) -> None:
    """A column of its name, with the number on the tier's rows and no other."""
    report.write(document, tmp_path / "r.csv")
    with (tmp_path / "r.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["stalled_ns"] for row in rows if not row["op"]} == {str(STALLED_NS)}
    assert {row["stalled_ns"] for row in rows if row["op"]} == {""}
    report.write(document, tmp_path / "r.xlsx")
    book = openpyxl.load_workbook(tmp_path / "r.xlsx")
    heads, *values = book["Latencies"].iter_rows(values_only=True)
    assert values[0][heads.index("stalled_ns")] == STALLED_NS
