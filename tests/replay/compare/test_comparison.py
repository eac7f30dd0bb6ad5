"""What a comparison comes to, what it was of, and what makes it unfair: in every form."""

from __future__ import annotations

import json
from html import unescape
from typing import TYPE_CHECKING, Any

import pytest

from kvtrace.units import MS_NS
from replay.compare import charts
from replay.compare.comparison import compare
from replay.compare.document import ComparisonDocument, document_of
from replay.compare.figures import BYTES_PER_S, NS, Figure, of_result
from replay.compare.sides import Side, Trial
from replay.compare.words import interval, marked, times, value
from replay.measure.summaries import has_few
from replay.result import stored
from replay.result.reason import Reason
from tests.support import synthetic
from tests.support.examples import rest_slow
from tests.support.traces import simple_rows, write_trace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.command import Outcome

Run = "Callable[..., Path]"
SECONDS_1970 = 1_800_000_000


def side(label: str, *trials: dict[str, float], few: bool = False) -> Side:
    """A side whose trials have these figures: rates in GB/s, times in ms."""
    made = []
    for number, figures in enumerate(trials):
        made.append(Trial(f"{number}.json", tuple(
            Figure(name, number * 1e9, BYTES_PER_S, True) if name.endswith("rate")
            else Figure(name, number * MS_NS, NS, False, few)
            for name, number in figures.items()
        ), None))  # fmt: skip
    return Side(label, tuple(made))


def trials(read: float, write: float, p99: float, *, noise: float = 0.01) -> list[dict[str, float]]:
    """Three trials about these means."""
    return [
        {"nvme read rate": read * by, "nvme write rate": write * by, "nvme read P99": p99 * by}
        for by in (1 - noise, 1, 1 + noise)
    ]


def headline(*sides: Side) -> list[str]:
    """The sentences of a comparison."""
    return document_of(compare(sides)).headline


def test_a_sentence_says_how_much_faster() -> None:
    """By the ratio of means, with both; below 1.1 in per cent; P99 by its own ratio."""
    [sentence] = headline(side("A", *trials(0.4, 2, 6)), side("B", *trials(6.12, 1.9, 2)))
    assert sentence == (
        "Compared with A, B is 15.3 × faster in reads (6.120 against 0.400 GB/s) and 5.3 % slower "
        "in writes (1.900 against 2.000 GB/s); P99 is 3 × shorter in reads (2.000 against 6.000 "
        "ms)."
    )


def test_a_sentence_says_what_is_within_noise() -> None:
    """No ratio is told that chance may have made."""
    base, other = (side(name, *trials(read, 1, 5, noise=0.2))
                   for name, read in (("A", 1.0), ("B", 1.1)))  # fmt: skip
    assert headline(base, other) == [
        "Compared with A, B is within noise in reads and writes; P99 is within noise in reads."
    ]
    alike = [{**each, "nvme write P99": each["nvme read P99"]} for each in trials(1, 1, 5)]
    assert headline(side("A", *alike), side("B", *alike)) == [
        "Compared with A, B is within noise in reads and writes, P99 too."
    ]


@pytest.mark.slow
def test_with_a_schedule_response_times_say_who_is_faster(
    result: Callable[..., Path], cli: Callable[..., Outcome]
) -> None:
    """Rates are the trace's in open mode: P50 and P99 of response times are told instead."""

    def paced(by: int) -> Callable[[dict[str, Any]], None]:
        def change(document: dict[str, Any]) -> None:
            document["config"]["mode"] = "open"
            for group in document["groups"]:
                times = {"upper": [by * MS_NS, 3 * by * MS_NS], "count": [900, 100]}
                group["response_distribution_ns"] = times

        return change

    paths = [result("one", paced(2)), result("other", paced(1))]
    document = ComparisonDocument.model_validate_json(cli("compare", *paths, "--json").out)
    sentence = document.headline[0]
    assert "other is 2 × faster in reads (response P50 1.000 against 2.000 ms)" in sentence
    assert "; P99 of response times is 2 × shorter in reads (3.000 against 6.000 ms)" in sentence
    shown = [chart.caption for _, made in charts.of_tiers(document) for chart in made]
    assert "P99 of response time, ms" in shown


def test_one_trial_a_side_may_be_chance() -> None:
    """It is told, and that nobody knows its noise."""
    one, other = side("A", trials(1, 1, 5)[1]), side("B", trials(2, 1, 5)[1])
    sentences = headline(one, other)
    assert sentences[0].startswith("Compared with A, B is 2 × faster in reads")
    assert "the same in writes" in sentences[0]
    assert sentences[1] == (
        "Each side has one trial, so that its noise isn't known: the differences may be chance."
    )
    [_, mixed] = headline(one, side("B", *trials(2, 1, 5)))
    assert mixed.startswith("A has one trial")


def test_few_samples_are_marked_in_sentences_and_figures() -> None:
    """P99* where either side has too few."""
    one, other = side("A", *trials(1, 1, 5), few=True), side("B", *trials(1, 1, 25))
    [sentence] = headline(one, other)
    assert "; P99* is 5 × longer" in sentence
    figure = document_of(compare([one, other])).figures[2]
    assert figure.sides[0] is not None
    assert figure.sides[1] is not None
    assert [marked(spread, NS) for spread in figure.sides if spread] == ["5.000 ms*", "25.0 ms"]


def test_trials_of_one_side_say_how_sure_they_are() -> None:
    """Rate with its interval, P99, and whether all are VALID."""
    sentences = headline(side("A", *trials(1, 2, 5)))
    assert sentences == [
        "Reads of tier nvme: 1.000 GB/s (95 %: 0.975–1.025 GB/s), P99 5.000 ms.",
        "Writes of tier nvme: 2.000 GB/s (95 %: 1.951–2.050 GB/s).",
    ]
    assert headline(side("A", trials(1, 2, 5)[1]))[-1] == (
        "One trial: how much the figures scatter isn't known."
    )


def test_sides_without_anything_in_common() -> None:
    """That is what is said of them."""
    one = side("A", {"nvme read rate": 1.0})
    other = side("B", {"object read rate": 1.0})
    assert headline(one, other)[0] == "B and A have no rate or time in common."


def test_values_stand_beside_their_trials() -> None:
    """A trial without a figure has none, and the odd one is named rightly."""
    made = side("A", {}, *({"nvme read rate": rate} for rate in (1.0, 1.01, 0.99, 9.0)))
    [figure] = document_of(compare([made])).figures
    assert figure.sides[0] is not None
    assert figure.sides[0].values == [None, 1e9, 1.01e9, 0.99e9, 9e9]
    assert figure.sides[0].odd == ["4.json"]


def test_sides_of_one_name_are_told_apart() -> None:
    """Charts and tables would mix them."""
    found = document_of(compare([side("r", *trials(1, 1, 5))] * 3))
    assert [each.label for each in found.sides] == ["r", "r (2)", "r (3)"]


def test_numbers_are_in_units_that_people_read() -> None:
    """Both ends of an interval in one unit."""
    assert value(431_600, NS) == "431.6 µs"
    assert interval((900_000, 12 * MS_NS), NS) == "0.9–12.0 ms"
    assert interval((900_000, 1200 * MS_NS), NS) == "900.0 µs–1.200 s"
    assert interval((2e6, 3e6), BYTES_PER_S) == "2.000–3.000 MB/s"
    assert value(20e6, BYTES_PER_S) == "0.020 GB/s"
    assert [times(ratio) for ratio in (None, 0.1956, 15.32, 2301.0)] == [
        "", "0.196 ×", "15.3 ×", "2,301 ×"
    ]  # fmt: skip


def test_percentiles_of_few_samples_are_known_by_their_count(tmp_path: Path) -> None:
    """Of 10,000 ops P99.9 has 10 samples beyond it, P99.99 one."""
    figures = {each.name: each for each in of_result(stored.load(
        synthetic.bimodal(tmp_path / "r.parquet")))}  # fmt: skip
    few = {name for name in figures if figures[name].few_samples}
    assert few == {"nvme read P99.99", "nvme response P99.99"}
    assert figures["nvme read response P99"].value == figures["nvme response P99"].value
    assert [has_few(1000, name) for name in ("p99", "p999")] == [False, True]


@pytest.fixture
def result(cli: Callable[..., Outcome], tmp_path: Path) -> Callable[..., Path]:
    """Gives a function that writes a VALID result of the null target, changed by another."""
    trace = write_trace(tmp_path / "t.parquet", simple_rows(8))
    base = tmp_path / "base.json"
    cli("replay", trace, "--target", "null", "--mode", "max", "--min-window", "0s",
        "--report", base)  # fmt: skip

    def run(name: str, change: Callable[[dict[str, Any]], object] = lambda _: None) -> Path:
        document = json.loads(base.read_text()) | {"verdict": "VALID", "reasons": []}
        change(document)
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(document))
        return path

    return run


def all_forms(cli: Callable[..., Outcome], tmp_path: Path, *paths: Path) -> dict[str, str]:
    """Return a comparison as each form's text; the terminal's without line breaks."""
    openpyxl = pytest.importorskip("openpyxl")
    outputs = [tmp_path / f"c.{kind}" for kind in ("html", "json", "xlsx")]
    words = [word for path in outputs for word in ("--report", path)]
    found = cli("compare", *paths, *words, "--force")
    assert found.code == 0, found.err
    assert all(len(line) <= 80 for line in found.out.splitlines())
    book = openpyxl.load_workbook(outputs[2])
    cells = [str(cell) for sheet in book for row in sheet.iter_rows(values_only=True)
             for cell in row]  # fmt: skip
    return {
        "terminal": " ".join(found.out.split()),
        "html": unescape(outputs[0].read_text()),
        "json": outputs[1].read_text(),
        "xlsx": "\n".join(cells),
    }


def io_classes(*sizes: int) -> Callable[[dict[str, Any]], None]:
    """Return a change to single I/Os of these sizes."""

    def change(document: dict[str, Any]) -> None:
        times = dict.fromkeys(("p50", "p90", "p95", "p99", "p999", "p9999", "max", "count"), 100)
        groups = [{**times, "mean": 100.0, "few_samples": [], "size_class_bytes": size}
                  for size in sizes]  # fmt: skip
        document["lanes"][0]["io_ns"] = groups

    return change


UNLIKE = {
    "mode": (
        lambda document: document["config"].update(mode="open"),
        "different modes (one: max, other: open): rates follow the trace in open mode",
    ),
    "depth": (
        lambda document: document["config"].update(queue_depth=7),
        "different queue depths (one: 32, other: 7): throughput and latency both grow",
    ),
    "size": (
        io_classes(4096, 65_536),
        "different I/O sizes (one: from 256.00 KiB, other: from 64.00 KiB): larger I/Os move",
    ),
    "part": (
        lambda document: document["trace"].update(rounds=0.25),
        "different parts of the trace (one: 1.00, other: 0.25 rounds): each has a mix",
    ),
    "engine": (
        lambda document: document["tool"].update(engine="threads"),
        "different engines (one: uring, other: threads): an engine's own cost",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", rest_slow(UNLIKE, quick=3))
def test_unlike_settings_are_cautioned(
    name: str,
    result: Callable[..., Path],
    cli: Callable[..., Outcome],
    tmp_path: Path,
) -> None:
    """In the terminal, JSON, HTML and XLSX, and as not like for like; alike, nothing is said."""
    change, caution = UNLIKE[name]

    def plain(document: dict[str, Any]) -> None:
        io_classes(262_144)(document)
        document["tool"]["engine"] = "uring"

    def changed(document: dict[str, Any]) -> None:
        plain(document)
        change(document)

    one, same, other = result("one", plain), result("same", plain), result("other", changed)
    for form, text in all_forms(cli, tmp_path, one, other).items():
        assert caution in text, form
        assert "Not like for like" in text, form
    for form, text in all_forms(cli, tmp_path, one, same).items():
        assert caution.partition(" (")[0] not in text, form
        assert "Not like for like" not in text, form


def test_unknown_settings_are_no_difference(
    result: Callable[..., Path], cli: Callable[..., Outcome], tmp_path: Path
) -> None:
    """Ops of another tool say nothing of their depth; fio's own options do."""
    ops = synthetic.constant(tmp_path / "ops.parquet")
    found = cli("compare", result("one"), ops, "--json")
    document = ComparisonDocument.model_validate_json(found.out)
    assert not [text for text in document.cautions if text.startswith("different ")]
    fio = tmp_path / "fio.json"
    job = {"read": {"bw_bytes": 1, "iops": 1, "lat_ns": {}, "clat_ns": {}},
           "write": {"bw_bytes": 0, "iops": 0, "lat_ns": {}, "clat_ns": {}}}  # fmt: skip
    fio.write_text(json.dumps({"fio version": "3", "jobs": [job], "global options":
                               {"iodepth": "8", "ioengine": "libaio"}}))  # fmt: skip
    found = cli("compare", result("one"), fio, "--json")
    document = ComparisonDocument.model_validate_json(found.out)
    assert "different queue depths (one: 32, fio: 8)" in " ".join(document.cautions)


@pytest.mark.slow
def test_reasons_and_remedies_are_in_every_form(
    result: Callable[..., Path], cli: Callable[..., Outcome], tmp_path: Path
) -> None:
    """INVALID, why, and what to do; the first sentence warns."""
    reason = Reason("short_window", "it lasted 3 s, below 60 s", "lengthen the trace", False)

    def invalid(document: dict[str, Any]) -> None:
        document["verdict"] = "INVALID"
        document["reasons"] = [{name: getattr(reason, name) for name in reason.__slots__}]

    forms = all_forms(cli, tmp_path, result("one"), result("bad", invalid))
    for form, text in forms.items():
        for word in (reason.code, reason.figure, reason.remedy):
            assert word in text, (form, word)
    document = ComparisonDocument.model_validate_json(forms["json"])
    assert document.headline[0] == (
        "bad is INVALID in 1 of 1 trials (short_window): don't rely on these figures."
    )
    assert forms["terminal"].startswith(document.headline[0])


def test_the_facts_say_what_was_compared(result: Callable[..., Path], cli: Any) -> None:
    """Target, model, trace, mode, depth, versions, host, date; what differs is marked."""

    def elsewhere(document: dict[str, Any]) -> None:
        document["environment"].update(cpu_model="Z80", cpus=1, memory_bytes=1 << 16)
        document["config"].update(verify="full")
        document["created_at_s"] = SECONDS_1970
        document["trace"]["model"] = "llama3.1-8b"
        document["trace"]["header"].update(
            model={"name": "llama3.1-8b", "dtype": "bf16"}, tensor_parallel=8,
            layout={"name": "vllm", "block_tokens": 16},
        )  # fmt: skip

    found = cli("compare", result("one"), result("other", elsewhere), "--json")
    document = ComparisonDocument.model_validate_json(found.out)
    facts = {fact.name: fact for fact in document.facts}
    assert facts["host"].values[1] == "1 × Z80, 64.00 KiB of memory"
    assert facts["host"].differs
    assert facts["model"].values == [None, "llama3.1-8b, bf16, TP 8"]
    assert not facts["model"].differs, "one isn't known"
    assert facts["layout"].values[1] == "vllm, blocks of 16 tokens"
    assert facts["option verify"].values == ["sample", "full"]
    assert facts["date"].values[1] == "2027-01-15 08:00 UTC"
    assert not facts["date"].differs
    assert facts["trials"].values == ["1 × VALID"] * 2
    assert facts["queue depth"].values == ["32", "32"]
    assert facts["tiers"].values[0] == "nvme"
    assert str(facts["versions"].values[0]).startswith("kvtrace ")
    assert "sha256" in str(facts["trace"].values[0])
