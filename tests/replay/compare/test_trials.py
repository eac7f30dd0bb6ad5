"""Trials and comparisons: statistics by hand, what may be averaged, what exceeds the noise."""

from __future__ import annotations

from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import pytest

from kvtrace.errors import UsageError
from kvtrace.units import MS_NS
from replay.compare import report, xlsx
from replay.compare.comparison import compare
from replay.compare.document import document_of
from replay.compare.figures import Figure, of_result
from replay.compare.sides import Side, Trial, check_alike, load_side
from replay.compare.statistics import differs, odd, spread, t_95
from replay.compare.words import judged, value
from replay.measure.summaries import Distribution, merged, percentile
from replay.result import stored
from tests.support import synthetic
from tests.support.traces import simple_rows, write_trace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.command import Outcome

Cli = "Callable[..., Outcome]"


def test_mean_median_deviation_and_interval_are_those_by_hand() -> None:
    """Of 1 to 5: deviation √2.5, 95 % of the mean ×÷ e^(2.776 · √2.5 ÷ √5 ÷ 3)."""
    found = spread([1, 2, 3, 4, 5])
    assert (found.count, found.mean, found.median, found.low, found.high) == (5, 3, 3, 1, 5)
    assert found.deviation == pytest.approx(2.5**0.5)
    assert found.cv_ratio == pytest.approx(2.5**0.5 / 3)
    assert found.ci95 == pytest.approx((1.5594, 5.7714), abs=1e-3)


@pytest.mark.parametrize(
    "values", [[1.0, 40.0], [0.0, 8.0], [0.0, 0.0, 0.0, 90.0], [3.0, 3.0], [0.0, 0.0], [5, 1, 900]]
)
def test_no_interval_of_a_time_goes_below_zero(values: list[float]) -> None:
    """It holds the mean, whatever the noise; mean ± t · SE would begin at −226 ns of 1 and 40."""
    found = spread(values)
    assert found.ci95 is not None
    low, high = found.ci95
    assert 0 <= low <= found.mean <= high < float("inf")
    if found.mean:
        assert low > 0


def test_with_little_noise_the_interval_is_students() -> None:
    """Mean ± t · SE, to a part of the noise squared; also of figures that may be negative."""
    values = [100.0, 101.0, 99.0, 100.5]
    half = t_95(3) * (stdev(values) / 2)
    assert spread(values).ci95 == pytest.approx((fmean(values) - half, fmean(values) + half), 1e-3)
    assert spread([-1.0, 1.0]).ci95 == pytest.approx((-12.706, 12.706))


def test_one_trial_has_no_noise_that_is_known() -> None:
    """Neither deviation nor interval, nor whether it differs."""
    found = spread([7.0])
    assert (found.deviation, found.cv_ratio, found.ci95, found.odd) == (None, None, None, ())
    assert differs([7.0], [8.0, 8.1]) is None


def test_students_t() -> None:
    """Whole degrees by the table, broken ones by the lower, many as the normal distribution's."""
    assert (t_95(1), t_95(4), t_95(4.9), t_95(30), t_95(500)) == (12.706, 2.776, 2.776, 2.042, 1.96)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([10.0, 10.1, 9.9, 10.0, 20.0], (4,)),
        ([10.0, 10.1, 9.9, 10.0, 10.2], ()),
        ([5.0, 5.0, 5.0, 5.0, 6.0], (4,)),
        ([5.0, 5.0, 5.0, 5.0, 5.01], ()),
        ([1.0, 9.0, 1.0], ()),
    ],
)
def test_odd_trials_are_named(values: list[float], expected: tuple[int, ...]) -> None:
    """Far from the median by the others' distances; fewer than four can't tell."""
    assert odd(values) == expected


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([10.0, 10.1, 9.9], [12.0, 12.1, 11.9], True),
        ([10.0, 12.0, 8.0], [10.5, 12.5, 8.5], False),
        ([1.0, 1.0], [2.0, 2.0], True),
        ([1.0, 1.0], [1.0, 1.0], False),
    ],
)
def test_a_difference_is_real_beyond_the_noise(
    one: list[float], other: list[float], expected: bool
) -> None:
    """Welch's test, also where there is no noise at all."""
    assert differs(one, other) == expected


def test_percentiles_of_several_distributions() -> None:
    """The smallest end that so many don't exceed."""
    parts = [
        Distribution(upper=[1, 2], count=[50, 10]), None, Distribution(upper=[2, 5], count=[30, 10])
    ]  # fmt: skip
    whole = merged(parts)
    assert (whole.upper, whole.count) == ([1, 2, 5], [50, 40, 10])
    assert [percentile(whole, name) for name in ("p50", "p90", "p95", "p9999")] == [1, 2, 5, 5]
    assert percentile(merged([None]), "p50") is None


def test_rates_are_shown_as_exactly_as_they_are_told_apart() -> None:
    """Large objects make few ops per second."""
    assert [value(rate, "per s") for rate in (9.216, 99.994, 12_345.6)] == [
        "9.22/s", "99.99/s", "12,346/s"
    ]  # fmt: skip


def side(label: str, *values: float, unit: str = "bytes/s", better: bool = True) -> Side:
    """A side of one figure."""
    trials = [Trial(f"{n}.json", (Figure("x", value, unit, better),), None)
              for n, value in enumerate(values)]  # fmt: skip
    return Side(label, tuple(trials))


def test_a_comparison_says_better_worse_or_within_noise() -> None:
    """Relative to the first; up is better for rates, down for times; unknown with one trial."""
    base = side("base", 10.0, 10.1, 9.9)
    sides = [base, side("fast", 12, 12.1, 11.9), side("same", 10, 10.2, 9.7), side("once", 20)]
    figure = document_of(compare(sides)).figures[0]
    words = [judged(figure, spread) for spread in figure.sides if spread is not None]
    assert words == ["", "better", "within noise", ""]
    ratios = [spread.ratio for spread in figure.sides if spread is not None]
    assert ratios == [None, pytest.approx(1.2), pytest.approx(0.99667, abs=1e-5), 2.0]
    slower = [side("a", 1, 1.1, 0.9, better=False), side("b", 5, 5.1, 4.9, better=False)]
    figure = document_of(compare(slower)).figures[0]
    assert figure.sides[1] is not None
    assert judged(figure, figure.sides[1]) == "worse"


def test_the_workbook_says_what_the_comparison_says(tmp_path: Path) -> None:
    """Sides, figures, cautions: read by another program's library, numbers as numbers."""
    openpyxl = pytest.importorskip("openpyxl")
    sides = [
        side("base", 10.0, 10.1, 9.9, 10.0, 20.0),
        side("fast", 50, 50.1, 49.9),
        side("one", 5),
    ]
    document = document_of(compare(sides))
    report.write(document, tmp_path / "c.xlsx", "Comparison")
    book = openpyxl.load_workbook(tmp_path / "c.xlsx")
    assert book.sheetnames == [
        "Summary", "Compared", "Rates", "Sides", "Figures", "Cautions", "Reasons"
    ]  # fmt: skip
    summary = [row[0] for row in book["Summary"].iter_rows(min_row=2, values_only=True)]
    assert summary == document.headline
    trials = [row[:3] for row in book["Sides"].iter_rows(min_row=2, values_only=True)]
    assert trials == [
        *(("base", f"{n}.json", "UNJUDGED") for n in range(5)),
        *(("fast", f"{n}.json", "UNJUDGED") for n in range(3)),
        ("one", "0.json", "UNJUDGED"),
    ]  # fmt: skip
    heads, *rows = book["Figures"].iter_rows(values_only=True)
    assert heads == xlsx.FIGURES
    assert book["Figures"].freeze_panes == "A2"
    for row, label, expected in zip(
        rows, ("base", "fast", "one"), document.figures[0].sides, strict=True
    ):
        found = dict(zip(heads, row, strict=True))
        assert expected is not None
        assert (found["figure"], found["unit"], found["side"]) == ("x", "bytes/s", label)
        assert found["trials"] == expected.count
        for name in ("mean", "median", "low", "high", "deviation", "cv_ratio", "ratio"):
            assert found[name] == pytest.approx(getattr(expected, name)), name
        interval = (found["ci95_low"], found["ci95_high"])
        assert interval == pytest.approx(expected.ci95 or (None, None))
        assert found["beyond_noise"] is expected.beyond_noise
    assert [row[heads.index("odd_trials")] for row in rows] == ["4.json", None, None]
    assert [row[heads.index("judged")] for row in rows] == [None, "better", None]
    cautions = [row[0] for row in book["Cautions"].iter_rows(min_row=2, values_only=True)]
    assert cautions == document.cautions


def trial(path: Path, **changed: Any) -> Trial:
    """A result of a replay, changed."""
    document = stored.load(path)
    document = document.model_copy(update=changed)
    return Trial(path.name, of_result(document), document)


def test_the_figures_of_a_result_are_its_own(tmp_path: Path) -> None:
    """Throughput, rates per tier and op, percentiles of reads, response."""
    document = stored.load(synthetic.bimodal(tmp_path / "r.parquet"))
    found = {figure.name: figure for figure in of_result(document)}
    assert found["throughput"].value == document.throughput_bytes_per_s
    assert found["nvme read P50"].value == pytest.approx(100_000, rel=1 / 256)
    assert found["nvme read P99.9"].value == 10 * MS_NS
    assert found["nvme response P99"].value == document.response_ns["p99"]  # type: ignore[index]
    rate = document.throughput_bytes_per_s
    assert found["nvme read rate"].value == rate
    assert "nvme write P50" not in found


@pytest.fixture
def results(cli: Callable[..., Outcome], tmp_path: Path) -> Callable[..., Path]:
    """Gives a function that replays on the null target and returns the report."""

    def run(name: str, *words: object, objects: int = 8) -> Path:
        trace = write_trace(tmp_path / f"{objects}.parquet", simple_rows(objects))
        path = tmp_path / f"{name}.json"
        cli("replay", trace, "--target", "null", "--mode", "max", "--min-window", "0s",
            "--report", path, *words)  # fmt: skip
        return path

    return run


@pytest.mark.slow
def test_unlike_trials_are_not_averaged(results: Callable[..., Path]) -> None:
    """Another trace, other options, another machine: refused, by name."""
    one = load_side(results("one")).trials[0]
    check_alike([one, load_side(results("again")).trials[0]])
    with pytest.raises(UsageError, match=r"one.json and other.json have different trace.*compare"):
        check_alike([one, load_side(results("other", objects=9)).trials[0]])
    with pytest.raises(UsageError, match="different options"):
        check_alike([one, load_side(results("deep", "--queue-depth", 7)).trials[0]])
    assert one.document is not None
    assert one.document.environment is not None
    elsewhere = {"environment": one.document.environment.__class__(
        **{**vars_of(one.document.environment), "cpus": 99})}  # fmt: skip
    other = Trial("far.json", (), one.document.model_copy(update=elsewhere))
    with pytest.raises(UsageError, match="different environment"):
        check_alike([one, other])


def vars_of(found: Any) -> dict[str, Any]:
    """Return the fields of a slotted dataclass."""
    return {name: getattr(found, name) for name in found.__slots__}


@pytest.mark.slow
def test_compare_writes_and_refuses(
    results: Callable[..., Path], cli: Callable[..., Outcome], tmp_path: Path
) -> None:
    """Tables of 80 columns; HTML and JSON; nothing overwritten; what can't be compared named."""
    one, other = results("one"), results("other", objects=9)
    page, book = tmp_path / "c.html", tmp_path / "c.xlsx"
    found = cli("compare", one, other, "--report", page, "--report", book)
    assert found.code == 0, found.err
    assert all(len(line) <= 80 for line in found.out.splitlines())
    assert "different traces" in found.out
    assert "no known noise" in found.out
    assert "throughput" in page.read_text()
    assert book.stat().st_size > 0
    assert cli("compare", one, other, "--report", page).code == 4
    assert cli("compare", one, "--report", one, "--force").code == 2
    assert (
        "accepted: .html, .json, .xlsx" in cli("compare", one, "--report", tmp_path / "c.txt").error
    )
    assert "more labels" in cli("compare", one, "--label", "a", "--label", "b").error
    assert "no trials in it" in cli("compare", tmp_path).error
