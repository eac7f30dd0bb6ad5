"""Results with known answers: verdict, percentiles and warnings are right, in every form."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import dataclass, field
from html import unescape
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from replay.compare import report, terminal
from replay.compare.comparison import compare
from replay.compare.document import document_of
from replay.compare.sides import load_side
from replay.report import suffixes
from replay.report.sections.scripts import columns
from replay.result import stored
from tests.support import synthetic
from tests.support.examples import rest_slow
from tests.support.synthetic import MS, OPS, SIZE_BYTES, US
from tests.support.whole import duration_ns

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from replay.result.document import Percentiles, ResultDocument
    from tests.support.command import Outcome

openpyxl = pytest.importorskip("openpyxl")
ERROR = 1 / 256
SHOWN = {"p50": "P50", "p90": "P90", "p99": "P99", "p999": "P99.9", "p9999": "P99.99"}


@dataclass(frozen=True)
class Known:
    """What is to come out. Percentiles in ns; `codes`: reasons and warnings, but for `unjudged`."""

    make: Callable[[Path], Path]
    service: dict[str, int]
    response: dict[str, int] = field(default_factory=dict)
    verdict: str = "UNJUDGED"
    codes: frozenset[str] = frozenset()
    errors: int = 0


CASES = {
    "constant": Known(
        synthetic.constant, dict.fromkeys(SHOWN, 200 * US), dict.fromkeys(SHOWN, 200 * US)
    ),
    "bimodal": Known(
        synthetic.bimodal,
        {"p50": 100 * US, "p90": 100 * US, "p99": 10 * MS, "p999": 10 * MS, "p9999": 10 * MS},
    ),
    # Due at 3,000 to 3,999 ms and complete at 4 s: one of ten waits, evenly from 1 s down.
    "one stall": Known(
        synthetic.one_stall,
        {"p50": 100 * US, "p90": 100 * US, "p99": 900 * MS, "p999": 990 * MS, "p9999": 999 * MS},
        codes=frozenset({"standstill"}),
    ),
    "errors": Known(
        synthetic.errors,
        dict.fromkeys(SHOWN, 200 * US),
        verdict="INVALID",
        codes=frozenset({"failed_ops"}),
        errors=100,
    ),
    # The next 1,111 ops wait: op n behind is due n ms and starts 1 s + (n − 1) · 0.1 ms later.
    "coordinated omission": Known(
        synthetic.omission,
        {"p50": 100 * US, "p90": 100 * US, "p99": 100 * US, "p999": 100 * US, "p9999": 100 * US},
        {"p50": 100 * US, "p99": 910 * MS, "p999": 991 * MS, "p9999": 999 * MS + 100 * US},
        codes=frozenset({"waiting", "standstill"}),
    ),
}


_REST = ("constant", "bimodal", "one stall")


@pytest.fixture(
    scope="module", params=rest_slow(["coordinated omission", "errors", *_REST], quick=2)
)
def known(request: pytest.FixtureRequest) -> Known:
    """One case."""
    return CASES[request.param]


@pytest.fixture(scope="module")
def result(known: Known, tmp_path_factory: pytest.TempPathFactory) -> ResultDocument:
    """Its result."""
    return stored.load(known.make(tmp_path_factory.mktemp("synthetic") / "r.parquet"))


def near(found: float, exact: int) -> bool:
    """Whether a percentile is as near as the histogram promises."""
    return exact <= found <= exact * (1 + ERROR) + 1


def check(found: Percentiles | None, exact: dict[str, int]) -> None:
    """Compare percentiles."""
    assert found is not None
    for name, value in exact.items():
        assert near(found[name], value), (name, found[name], value)


def test_the_figures_are_those_by_hand(known: Known, result: ResultDocument) -> None:
    """Percentiles, counts, errors, throughput, verdict, and exactly the warnings that apply."""
    check(result.service_ns, known.service)
    check(result.response_ns, known.response)
    assert (result.verdict, result.errors) == (known.verdict, known.errors)
    codes = {reason.code for reason in (*result.reasons, *result.warnings)}
    assert codes - {"unjudged"} == known.codes
    good = OPS - known.errors
    assert (result.ops, result.bytes) == (good, good * SIZE_BYTES)
    assert result.service_ns.count == good
    inside = result.lanes[0].window_ops
    rate = inside * SIZE_BYTES / result.window_s
    assert result.throughput_bytes_per_s == pytest.approx(rate)
    assert result.window_s == pytest.approx((OPS - 1) / 1000, rel=0.02)


@dataclass(frozen=True)
class Said:
    """What can be read from one form; times in ns."""

    verdict: str
    codes: set[str]
    service: dict[str, float]
    response: dict[str, float]


def read_json(path: Path) -> Said:
    """Read the JSON report."""
    found = json.loads(path.read_text())
    reasons = (*found["reasons"], *found["warnings"])
    return Said(
        found["verdict"],
        {reason["code"] for reason in reasons},
        {name: found["service_ns"][name] for name in SHOWN},
        {name: found["response_ns"][name] for name in SHOWN},
    )


def read_csv(path: Path) -> Said:
    """Read the rows of the lane; a table has no reasons."""
    return read_rows(list(csv.DictReader(path.read_text().splitlines())), set())


def read_rows(rows: list[dict[str, Any]], codes: set[str]) -> Said:
    """Read what the rows of the lane say."""
    rows = [row for row in rows if not row["phase"]]
    times = {row["time"]: {name: float(row[f"{name}_ns"]) for name in SHOWN} for row in rows}
    return Said(rows[0]["verdict"], codes, times["service"], times["response"])


def read_xlsx(path: Path) -> Said:
    """Read the workbook: the sheet of latencies, whatever its name, and the verdict's reasons."""
    sheets = [list(s.iter_rows(values_only=True)) for s in openpyxl.load_workbook(path).worksheets]
    heads, *rows = next(rows for rows in sheets if rows[0] == columns())
    names, *reasons = next(rows for rows in sheets if rows[0][:2] == ("kind", "code"))
    found = [dict(zip(names, row, strict=True)) for row in reasons]
    codes = {row["code"] for row in found if row["kind"] in ("INVALID", "warning")}
    return read_rows([dict(zip(heads, row, strict=True)) for row in rows], codes)


def read_text(path: Path) -> Said:
    """Read what is printed."""
    text = path.read_text()
    lines = text.splitlines()
    at = next(at for at, line in enumerate(lines) if line.startswith("nvme all"))
    service, response = lines[at].removeprefix("nvme all"), lines[at + 1]
    cells = {"all": service.split(), "response": response.removeprefix("  response").split()}

    def times(name: str) -> dict[str, float]:
        return dict(zip(SHOWN, map(duration_ns, cells[name]), strict=False))

    codes = set(re.findall(r"^  (\w+) \((?:INVALID|warning)", text, re.MULTILINE))
    return Said(lines[0].split()[0], codes, times("all"), times("response"))


def read_html(path: Path) -> Said:
    """Read the page: what is shown, and the values that its table is sorted by."""
    text = path.read_text()
    verdict = re.search(r'class="verdict (\w+)">\1', text)
    assert verdict is not None
    rows = [re.findall(r'<td[^>]*?(?: data-value="([^"]*)")?>([^<]*)</td>', row)
            for row in re.findall(r"<tr>.*?</tr>", text)]  # fmt: skip
    times = {}
    for row in rows:
        words = [unescape(shown) for _, shown in row[:3]]
        if words[:2] == ["nvme decode read", "all"]:
            values = [float(value) for value, _ in row[-7:-2]]  # before the longest and the count
            times[words[2]] = dict(zip(SHOWN, values, strict=True))
    codes = set(re.findall(r'<li class="(?:INVALID|warning)"><code>(\w+)</code>', text))
    return Said(verdict[1], codes, times["service"], times["response"])


def read_mlperf(path: Path) -> Said:
    """Read MLPerf's form, which has neither P90 nor response times."""
    found = json.loads(path.read_text())
    stats, ours = found["summary"]["cache_stats"], found["kvtrace"]
    service = {name: stats[f"storage_read_{name}_ms"] * MS for name in SHOWN if name != "p90"}
    return Said(ours["verdict"], {*ours["reasons"], *ours["warnings"]}, service, {})


READERS: dict[str, Callable[[Path], Said]] = {
    "json": read_json,
    "csv": read_csv,
    "txt": read_text,
    "html": read_html,
    "xlsx": read_xlsx,
    "mlperf.json": read_mlperf,
}
WITHOUT_CODES = ("csv",)
MISSING = {"mlperf.json": {"p90"}}
WITHOUT_RESPONSE = ("mlperf.json",)


@pytest.fixture
def forms(result: ResultDocument, cli: Callable[..., Outcome], tmp_path: Path) -> dict[str, Path]:
    """The result in all forms, made by the command from its JSON."""
    source = tmp_path / "r.json"
    source.write_text(result.model_dump_json())
    made = {form: tmp_path / f"again.{form}" for form in READERS if form != "txt"}
    words = [word for path in made.values() for word in ("--report", path)]
    found = cli("report", source, "--full", *words)
    assert found.code == 0, found.err
    printed = tmp_path / "again.txt"
    printed.write_text(found.out)
    return {"txt": printed, **made}


@pytest.mark.slow
def test_every_form_says_the_same(known: Known, forms: dict[str, Path]) -> None:
    """Verdict, codes and percentiles, as they can be read from each form; there is no other."""
    assert {f".{form}" for form in forms} == {".txt", *suffixes()}
    for form, path in forms.items():
        said = READERS[form](path)
        assert said.verdict == known.verdict, form
        if form not in WITHOUT_CODES:
            assert said.codes - {"unjudged"} == known.codes, form
        assert set(SHOWN) - set(said.service) == MISSING.get(form, set())
        assert bool(said.response) == (form not in WITHOUT_RESPONSE)
        for exact, found in ((known.service, said.service), (known.response, said.response)):
            for name in set(exact) & set(found):
                value = exact[name]
                assert value * 0.999 <= found[name] <= value * (1 + ERROR) * 1.001, (form, name)


Beside = dict[tuple[str, str], tuple[float, float | None]]
"""Of (figure, side): the mean, and its ratio to the first side's."""


def compared_json(path: Path) -> Beside:
    """Read a comparison's JSON."""
    found = json.loads(path.read_text())
    labels = [side["label"] for side in found["sides"]]
    return {
        (figure["name"], label): (side["mean"], side["ratio"])
        for figure in found["figures"]
        for label, side in zip(labels, figure["sides"], strict=True)
        if side is not None
    }


def compared_xlsx(path: Path) -> Beside:
    """Read a comparison's workbook."""
    heads, *rows = openpyxl.load_workbook(path)["Figures"].iter_rows(values_only=True)
    found = [dict(zip(heads, row, strict=True)) for row in rows]
    return {(row["figure"], row["side"]): (row["mean"], row["ratio"]) for row in found}


def compared_html(path: Path) -> Beside:
    """Read a comparison's page: the values that its tables are sorted by.

    A figure's row has the first side's mean, then mean and ratio of each other side.
    """
    found: Beside = {}
    labels = list(CASES)
    for row in re.findall(r"<tr>.*?</tr>", path.read_text()):
        cells = re.findall(r'<td[^>]*?(?: data-value="([^"]*)")?>([^<]*)</td>', row)
        if len(cells) != 2 * len(labels) or not cells[1][0]:
            continue
        figure, values = unescape(cells[0][1]), [float(v) if v else None for v, _ in cells[1:]]
        means, ratios = [values[0], *values[1::2]], [None, *values[2::2]]
        for label, mean, ratio in zip(labels, means, ratios, strict=True):
            if mean is not None:
                found[figure, label] = mean, ratio
    return found


@pytest.mark.slow
def test_every_form_of_a_comparison_says_the_same(tmp_path: Path) -> None:
    """Percentiles, failures and ratios of results with known answers, verdicts and cautions."""
    sides = [load_side(known.make(tmp_path / f"{name}.parquet")) for name, known in CASES.items()]
    document = document_of(compare(sides))
    paths = {form: tmp_path / f"c{form}" for form in report.SUFFIXES}
    for path in paths.values():
        report.write(document, path, "Comparison")
    readers = {".json": compared_json, ".xlsx": compared_xlsx, ".html": compared_html}
    assert set(readers) == set(report.SUFFIXES)
    for form, reader in readers.items():
        found = reader(paths[form])
        for label, known in CASES.items():
            times = (("read", known.service), ("response", known.response))
            for title, value, base in (
                (f"nvme {what} {SHOWN[name]}", value, CASES["constant"].service[name])
                for what, exact in times
                for name, value in exact.items()
            ):
                mean, ratio = found[title, label]
                assert near(mean, value), (form, label, title)
                if label != "constant":
                    assert ratio == pytest.approx(value / base, rel=2 * ERROR), (form, label, title)
            assert found["failed ops", label][0] == known.errors
    console = Console(width=80, record=True, file=io.StringIO())
    for part in terminal.render(document):
        console.print(part)
    said = console.export_text()
    assert "errors: 1 × INVALID" in said
    assert "constant: 1 × UNJUDGED" in said
    assert any("errors is INVALID" in sentence for sentence in document.headline)
    assert all(caution.split(":")[0] in said for caution in document.cautions)


def test_ops_without_due_times_have_no_response_and_say_so(tmp_path: Path) -> None:
    """Waiting can't be seen in them: a warning says which comparison isn't fair."""
    times = synthetic.due_ns()
    path = synthetic.write_result(tmp_path / "r.parquet", times, times + US, scheduled=False)
    found = stored.load(path)
    assert (found.response_ns, found.lateness_ns) == (None, None)
    assert {reason.code for reason in found.warnings} == {"unjudged", "no_schedule"}
