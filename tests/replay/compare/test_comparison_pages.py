"""Pages and workbooks of comparisons: charts that can be seen, noise folded away, formats."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest

from kvtrace.units import MS_NS
from replay.compare import html, xlsx
from replay.compare.comparison import compare
from replay.compare.document import ComparisonDocument, document_of
from replay.compare.figures import BYTES_PER_S, NS, Figure
from replay.compare.sides import Side, Trial
from replay.report.support.workbook import BROKEN, SHARE, TIMES, WHOLE, number_format
from tests.support.browser import opened, undrawn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TITLES = ("P50", "P90", "P99", "P99.9", "P99.99")


def figures(by: float, *, fast: float = 1.0) -> Iterator[Figure]:
    """Reads and writes of a drive: rates, and percentiles in ms that grow with their rank."""
    for op, rate in (("read", 0.4 * fast), ("write", 2.0)):
        yield Figure(f"nvme {op} rate", rate * by * 1e9, BYTES_PER_S, True)
        for rank, title in enumerate(TITLES, start=1):
            time = 2 * rank**2 / (fast if op == "read" else 1)
            few = title.startswith("P99.")
            yield Figure(f"nvme {op} {title}", time / by * MS_NS, NS, False, few)


def side(label: str, *, fast: float = 1.0, more: tuple[Figure, ...] = ()) -> Side:
    """A side of three trials."""
    trials = (Trial(f"{number}.json", (*figures(by, fast=fast), *more), None)
              for number, by in enumerate((0.98, 1.0, 1.03)))  # fmt: skip
    return Side(label, tuple(trials))


@pytest.fixture
def document() -> ComparisonDocument:
    """Reads are 15.3 × faster on the second side, which alone has a figure; writes are alike."""
    only = (Figure("request waits P50", 5.0 * MS_NS, NS, False),)
    return document_of(compare([side("drive A"), side("drive B", fast=15.3, more=only)]))


class _Tables(HTMLParser):
    """The first cells of tables' rows, by whether they are folded away under which summary."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, list[str]] = {}
        self._fold, self._cell, self._tag = "", 0, ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._tag = tag
        if tag == "tr":
            self._cell = 0
        self._cell += tag == "td"

    def handle_endtag(self, tag: str) -> None:
        if tag == "details":
            self._fold = ""

    def handle_data(self, data: str) -> None:
        if self._tag == "summary":
            self._fold, self._tag = data, ""
        elif self._tag == "td" and self._cell == 1:
            self.rows.setdefault(self._fold, []).append(data)
            self._tag = ""


def first_cells(page: str) -> dict[str, list[str]]:
    """Return the first cells of rows, by the fold that they are in."""
    tables = _Tables()
    tables.feed(page)
    return tables.rows


@pytest.mark.slow
def test_what_is_within_noise_is_folded_and_not_lost(document: ComparisonDocument) -> None:
    """Reads lie open, writes and what one side lacks in a fold each, all in the last one."""
    rows = first_cells(html.text(document, "Comparison"))
    reads = ["nvme read rate", *(f"nvme read {title}" for title in TITLES)]
    assert [name for name in rows[""] if name.startswith("nvme")] == reads
    assert len(rows["6 figures within noise"]) == 6
    assert all(name.startswith("nvme write") for name in rows["6 figures within noise"])
    assert rows["1 figure that not all sides have"] == ["request waits P50"]
    every = set(rows["All figures with their statistics"])
    assert every == {figure.name for figure in document.figures}


@pytest.mark.slow
def test_a_page_begins_with_what_it_comes_to(document: ComparisonDocument) -> None:
    """The sentence stands right below the title, before charts and tables."""
    page = html.text(document, "Two drives")
    head = page[page.index("<h1>") : page.index("<h2>")]
    assert re.sub(r"<[^>]+>", " ", head).split() == [
        "Two", "drives", *document.headline[0].split()
    ]  # fmt: skip
    assert document.headline[0].startswith("Compared with drive A, drive B is 15.3 × faster")


@pytest.mark.slow
def test_marks_stand_behind_percentiles_of_few_samples(document: ComparisonDocument) -> None:
    """In the page's tables as in the trial's report, with what they mean."""
    page = html.text(document, "Comparison")
    assert "31.9 ms*" in page
    assert "17.9 ms*" not in page, "P99 has enough"
    assert "* fewer than 10 samples beyond this percentile" in page


_BARS = """
return [...document.querySelectorAll(".chart")].map((place) => ({
  name: place.getAttribute("aria-label"),
  bars: [...place.querySelectorAll(".mark-rect path")].map((bar) => bar.getBBox().width),
  points: place.querySelectorAll(".mark-symbol.role-mark path").length,
  legend: [...place.querySelectorAll(".role-legend-label text")].map((text) => text.textContent),
  axes: [...place.querySelectorAll(".role-axis-title text")].map((text) => text.textContent),
}));
"""


@pytest.mark.slow
def test_charts_have_bars_points_units_and_legends(
    document: ComparisonDocument, tmp_path: Path
) -> None:
    """Rates, P50 and P99 with a bar per op and side and a point per trial; a curve per op."""
    path = tmp_path / "c.html"
    path.write_text(html.text(document, "Comparison"), encoding="utf-8")
    with opened(path) as driver:
        drawn = {each["name"]: each for each in driver.execute_script(_BARS)}
        assert driver.get_log("browser") == []
    bars = ["Throughput, GB/s", "P50 of service time, ms", "P99 of service time, ms"]
    curves = [f"{op}s: service time by percentile, ms" for op in ("Read", "Write")]
    assert list(drawn) == [*bars, *curves]
    for name in bars:
        assert len(drawn[name]["bars"]) == 4
        assert min(drawn[name]["bars"]) > 2, name
        assert drawn[name]["points"] == 12
    for each in drawn.values():
        assert each["legend"] == ["drive A", "drive B"]
        assert each["axes"][0] in ("GB/s", "ms", "percentile")


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 4])
def test_pages_fit_a_phone_and_are_drawn(count: int, tmp_path: Path) -> None:
    """Of one side and of several: 390 px need no scrolling sideways."""
    path = tmp_path / "c.html"
    sides = [side(f"drive {number}", fast=number + 1.0) for number in range(count)]
    path.write_text(html.text(document_of(compare(sides)), "Comparison"), encoding="utf-8")
    with opened(path, phone=True) as driver:
        driver.execute_script("document.querySelectorAll('details').forEach((d) => d.open = true)")
        assert driver.execute_script("return document.documentElement.scrollWidth") <= 390
        assert undrawn(driver) == []
        assert driver.get_log("browser") == []


@pytest.mark.slow
def test_pages_are_dark_where_the_reader_wants_it(
    document: ComparisonDocument, tmp_path: Path
) -> None:
    """Text in charts has the page's colour, whatever the scheme."""
    path = tmp_path / "c.html"
    path.write_text(html.text(document, "Comparison"), encoding="utf-8")
    seen = []
    with opened(path) as driver:
        for scheme in ("light", "dark"):
            wanted = [{"name": "prefers-color-scheme", "value": scheme}]
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": wanted})
            seen.append(driver.execute_script(
                "const style = (q) => getComputedStyle(document.querySelector(q));"
                "return [style('body').backgroundColor, style('body').color,"
                "        style('.chart text').fill];"
            ))  # fmt: skip
    light, dark = seen
    assert light[0] != dark[0]
    assert [each[1] == each[2] for each in seen] == [True, True]


def test_the_workbook_has_units_and_formats(document: ComparisonDocument, tmp_path: Path) -> None:
    """Means are in GB/s and ms by their heads, with formats; ratios and shares have theirs."""
    openpyxl = pytest.importorskip("openpyxl")
    xlsx.write(document, tmp_path / "c.xlsx")
    book = openpyxl.load_workbook(tmp_path / "c.xlsx")
    assert book.sheetnames[:4] == ["Summary", "Compared", "Rates", "Times"]

    def column(sheet: str, head: str) -> list[Any]:
        heads = [cell.value for cell in book[sheet][1]]
        return [row[heads.index(head)] for row in book[sheet].iter_rows(min_row=2)]

    rates = column("Rates", "drive B, mean (GB/s)")
    assert rates[0].value == pytest.approx(0.4 * 15.3 * (0.98 + 1 + 1.03) / 3)
    assert {cell.number_format for cell in rates} == {BROKEN}
    assert column("Times", "drive A, mean (ms)")[0].value == pytest.approx(2, rel=0.01)
    assert column("Times", "drive B ÷ drive A")[0].number_format == TIMES
    assert column("Times", "drive B, verdict")[0].value == "better"
    times = [cell.value for cell in column("Times", "figure")]
    assert times[:4] == ["nvme read P50", "nvme read P99", "nvme write P50", "nvme write P99"]
    marks = [cell.value for cell in column("Times", "fewer than 10 samples")]
    assert [name for name, mark in zip(times, marks, strict=True) if mark == "*"] == [
        f"nvme {op} {title}" for op in ("read", "write") for title in TITLES[3:]
    ]
    assert {cell.number_format for cell in column("Figures", "cv_ratio")} == {SHARE}
    assert True in [cell.value for cell in column("Figures", "few_samples")]


def test_the_workbook_has_bars_of_what_matters(
    document: ComparisonDocument, tmp_path: Path
) -> None:
    """Rates, and P50 and P99 of reads and writes: a series per side, of its means."""
    openpyxl = pytest.importorskip("openpyxl")
    xlsx.write(document, tmp_path / "c.xlsx")
    book = openpyxl.load_workbook(tmp_path / "c.xlsx")
    for sheet, rows in (("Rates", 2), ("Times", 4)):
        [chart] = book[sheet]._charts
        heads = [cell.value for cell in book[sheet][1]]
        for series, label in zip(chart.series, ("drive A", "drive B"), strict=True):
            first, last = re.findall(r"\$([A-Z]+)\$(\d+)", series.val.numRef.f)
            assert heads[openpyxl.utils.column_index_from_string(first[0]) - 1].startswith(
                f"{label}, mean ("
            )
            assert (int(first[1]), int(last[1])) == (2, 1 + rows)


def test_formats_follow_heads() -> None:
    """Nanoseconds and bytes whole, seconds and rates with three digits, ids as they are."""
    shown = [
        number_format(head, value)
        for head, value in (
            ("p99_ns", 123_456), ("bytes", 5), ("ops", 5), ("window_s", 3.0), ("P95 (ms)", 1.5),
            ("throughput_bytes_per_s", 2.0), ("cv_ratio", 0.1), ("run_id", 12_345), ("value", 1.5),
        )
    ]  # fmt: skip
    assert shown == [WHOLE, WHOLE, WHOLE, BROKEN, BROKEN, BROKEN, SHARE, None, BROKEN]
