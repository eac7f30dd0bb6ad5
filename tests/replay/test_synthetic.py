"""Results with known answers: verdict, percentiles and warnings are right, in every form."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import dataclass, field
from html import unescape
from typing import TYPE_CHECKING

import pytest

from replay import stored
from tests.cli import conftest as cli_conftest
from tests.replay import synthetic
from tests.replay.synthetic import MS, OPS, SIZE_BYTES, US
from tests.replay.whole import duration_ns

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from replay.document import Percentiles, ResultDocument

cli = cli_conftest.cli
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


@pytest.fixture(scope="module", params=CASES)
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


def read_json(text: str) -> Said:
    """Read the JSON report."""
    found = json.loads(text)
    reasons = (*found["reasons"], *found["warnings"])
    return Said(
        found["verdict"],
        {reason["code"] for reason in reasons},
        {name: found["service_ns"][name] for name in SHOWN},
        {name: found["response_ns"][name] for name in SHOWN},
    )


def read_csv(text: str) -> Said:
    """Read the rows of the lane; a table has no reasons."""
    rows = [row for row in csv.DictReader(text.splitlines()) if not row["phase"]]
    times = {row["time"]: {name: float(row[f"{name}_ns"]) for name in SHOWN} for row in rows}
    return Said(rows[0]["verdict"], set(), times["service"], times["response"])


def read_text(text: str) -> Said:
    """Read what is printed."""
    lines = text.splitlines()
    cells = {line.split()[0]: line.split()[1:] for line in lines if line.strip()}

    def times(name: str) -> dict[str, float]:
        return dict(zip(SHOWN, map(duration_ns, cells[name]), strict=False))

    codes = set(re.findall(r"^  (\w+) \((?:INVALID|warning)", text, re.MULTILINE))
    return Said(lines[0].split()[0], codes, times("all"), times("response"))


def read_html(text: str) -> Said:
    """Read the page: what is shown, and the values that its table is sorted by."""
    verdict = re.search(r'class="verdict (\w+)">\1', text)
    assert verdict is not None
    rows = [re.findall(r'<td[^>]*?(?: data-value="([^"]*)")?>([^<]*)</td>', row)
            for row in re.findall(r"<tr>.*?</tr>", text)]  # fmt: skip
    times = {}
    for row in rows:
        words = [unescape(shown) for _, shown in row[:5]]
        if words[:4] == ["nvme", "decode", "read", "all"]:
            values = [float(value) for value, _ in row[8:13]]
            times[words[4]] = dict(zip(SHOWN, values, strict=True))
    codes = set(re.findall(r'<li class="(?:INVALID|warning)"><code>(\w+)</code>', text))
    return Said(verdict[1], codes, times["service"], times["response"])


READERS: dict[str, Callable[[str], Said]] = {
    "json": read_json,
    "csv": read_csv,
    "txt": read_text,
    "html": read_html,
}
WITHOUT_CODES = ("csv",)


@pytest.fixture
def forms(
    result: ResultDocument, cli: Callable[..., cli_conftest.Outcome], tmp_path: Path
) -> dict[str, str]:
    """The result in all forms, made by the command from its JSON."""
    source = tmp_path / "r.json"
    source.write_text(result.model_dump_json())
    made = {form: tmp_path / f"again.{form}" for form in READERS if form != "txt"}
    found = cli("report", source, *(word for path in made.values() for word in ("--report", path)))
    assert found.code == 0, found.err
    return {"txt": found.out, **{form: path.read_text() for form, path in made.items()}}


def test_every_form_says_the_same(known: Known, forms: dict[str, str]) -> None:
    """Verdict, codes and percentiles, as they can be read from each form."""
    for form, text in forms.items():
        said = READERS[form](text)
        assert said.verdict == known.verdict, form
        if form not in WITHOUT_CODES:
            assert said.codes - {"unjudged"} == known.codes, form
        for exact, found in ((known.service, said.service), (known.response, said.response)):
            for name, value in exact.items():
                assert value * 0.999 <= found[name] <= value * (1 + ERROR) * 1.001, (form, name)


def test_ops_without_due_times_have_no_response_and_say_so(tmp_path: Path) -> None:
    """Waiting can't be seen in them: a warning says which comparison isn't fair."""
    times = synthetic.due_ns()
    path = synthetic.write_result(tmp_path / "r.parquet", times, times + US, scheduled=False)
    found = stored.load(path)
    assert (found.response_ns, found.lateness_ns) == (None, None)
    assert {reason.code for reason in found.warnings} == {"unjudged", "no_schedule"}
