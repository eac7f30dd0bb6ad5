"""The default report of a terminal: 20 lines, 80 columns, what a reader needs, nothing alarming."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

import replay
from kvtrace.trace.schema import Op, Phase, Tier
from replay.report import short
from replay.report.support.cells import WIDTH
from replay.result import stored
from replay.result.reason import Reason
from tests.support import synthetic
from tests.support.examples import examples
from tests.support.finished import reads
from tests.support.traces import simple_rows, write_trace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from replay.result.document import ResultDocument
    from tests.support.command import Outcome

MADE = (synthetic.constant, synthetic.bimodal, synthetic.one_stall, synthetic.errors,
        synthetic.omission)  # fmt: skip


def printed(document: ResultDocument, files: Sequence[Path] = (), encoding: str = "utf-8") -> str:
    """Return the short report as an 80 columns wide terminal shows it."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace")
    console = Console(file=stream, width=WIDTH, highlight=False)
    for part in short.render(document, files):
        console.print(part)
    stream.seek(0)
    return stream.read()


def row(text: str, name: str) -> list[str]:
    """Return the cells of the line that begins with `name`."""
    line = next(line for line in text.splitlines() if line.startswith(name))
    return line.removeprefix(name).split()


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> list[ResultDocument]:
    """Results of other tools, of a run without schedule, of one and of two tiers."""
    folder = tmp_path_factory.mktemp("results")
    made = [stored.load(make(folder / f"{make.__name__}.parquet")) for make in MADE]
    made.append(synthetic.with_requests(made[0]))
    rows = simple_rows(400, gap_ns=20_000)
    rows += [(40_000_000, Op.READ, Tier.CPU, at, Phase.PREFILL, 4096) for at in range(9)]
    for name, some, more in (("two", rows, {}), ("max", rows, {"mode": "max"}),
                             ("none", [r for r in rows if r[1] == Op.DELETE], {}),
                             ("one", reads(5, 1000), {"limit_rows": 2})):  # fmt: skip
        some = some or [(0, Op.DELETE, Tier.NVME, 1, Phase.EVICT, 4096)]
        trace = write_trace(folder / f"{name}.parquet", some)
        target = replay.TargetSpec("null", (Tier.CPU, Tier.NVME))
        made.append(replay.run(trace, [target], replay.ReplayOptions(**more)).document())
    return made


def changed(document: ResultDocument, **fields: Any) -> ResultDocument:
    """Return a result with other fields, a VALID one unless they say otherwise."""
    return document.model_copy(update={"verdict": "VALID", "reasons": [], **fields})


TEXTS = st.text(st.sampled_from("abc 0123456789.µs→界/\x1b\n_"), max_size=300)
CODES = st.sampled_from(["host_lateness", "standstill", "OVERLOADED", "x" * 90])
REASONS = st.lists(st.builds(Reason, CODES, TEXTS, TEXTS, st.booleans()), max_size=7)


@pytest.mark.slow
@given(data=st.data())
@settings(max_examples=examples(100), deadline=None)
def test_it_has_twenty_lines_of_eighty_columns(
    documents: list[ResultDocument], data: st.DataObject
) -> None:
    """Whatever is in a result: names, many reasons, tiers and errors."""
    document = data.draw(st.sampled_from(documents))
    count = data.draw(st.integers(0, 3))
    lanes = [document.lanes[0].model_copy(update={"tier": f"tier{at}"}) for at in range(count)]
    reasons = data.draw(REASONS)
    lane = document.lanes[0].model_copy(update={"title": data.draw(TEXTS)})
    shown = changed(
        document,
        lanes=[lane, *document.lanes[1:], *lanes][:4],
        reasons=reasons,
        verdict="INVALID" if reasons else "VALID",
        marks=data.draw(REASONS),
        warnings=data.draw(REASONS),
        errors=data.draw(st.integers(0, 10**12)),
        errors_by_name=dict.fromkeys(data.draw(st.lists(TEXTS, max_size=5)), 10**9),
    )
    files = [Path(f"/{name}") for name in data.draw(st.lists(TEXTS, max_size=4))]
    text = printed(shown, files)
    wide = [line for line in text.splitlines() if cell_len(line) > WIDTH]
    assert not wide
    assert len(text.splitlines()) <= short.LINES, text
    if reasons:
        assert "INVALID" in text or "accepted" in text
        assert text.count("→") >= 1
    else:
        assert "FAIL" not in text


@pytest.mark.slow
def test_a_valid_result_never_shows_the_word_fail(documents: list[ResultDocument]) -> None:
    """MLPerf's and our limits, which a VALID run may miss, are in `--full` and files only."""
    texts = [printed(changed(document)) for document in documents]
    assert not [text for text in texts if re.search("FAIL|MISSED", text)]
    assert all(text.startswith("VALID") for text in texts)


@pytest.mark.slow
def test_figures_are_those_of_the_document(documents: list[ResultDocument]) -> None:
    """Throughput, moved bytes, percentiles, what was verified and in time."""
    document = documents[1]
    text = printed(changed(document, created_at_s=0))
    lane = document.lanes[0]
    assert lane.throughput_bytes_per_s is not None
    assert row(text, "throughput")[0] == f"{lane.throughput_bytes_per_s / 1e9:.3f}"
    assert "read 9.77 GiB   written 0 B" in text
    assert row(text, "decode read") == [
        "100.1µs", "100.1µs", "10.0ms", "10.0ms", "10.0ms", "10,000"
    ]  # fmt: skip
    assert "100.0% within 1 ms" in text


@pytest.mark.slow
def test_service_time_stands_where_it_differs(documents: list[ResultDocument]) -> None:
    """Not where response times are longer by at most 10 %; there it would say the same twice."""
    assert "service" not in printed(documents[0])
    stalled = printed(documents[4])
    assert row(stalled, "decode read")[4] == "1.000s"
    assert "  service" in stalled
    assert row(stalled, "  service")[2] == "100.1µs"


def test_nothing_timed_is_said(documents: list[ResultDocument]) -> None:
    """A run that only deletes has no table, and a reason with a remedy."""
    text = printed(documents[-2])
    assert "no completed read or write to time" in text
    assert "nothing_measured" in text


def test_all_reasons_are_counted(documents: list[ResultDocument]) -> None:
    """Each with its remedy as far as they fit; the others by name, with where to see them."""
    reasons = [Reason(f"code_{at}", "x" * 70, "do this " * 12) for at in range(5)]
    text = printed(changed(documents[0], verdict="INVALID", reasons=reasons))
    whole = text.count("→ do this")
    assert whole >= 1
    assert f"{5 - whole + len(documents[0].warnings)} more" in text
    assert f"code_{whole}" in text
    assert "in --full" in text


def test_an_accepted_reason_looks_accepted(documents: list[ResultDocument]) -> None:
    """The verdict stays INVALID, says that reasons are accepted, and the reason is labelled so."""
    reason = Reason("short_window", "1.0 s measured", "replay longer", accepted=True)
    text = printed(changed(documents[0], verdict="INVALID", acceptable=True, reasons=[reason]))
    assert text.startswith("INVALID (all reasons accepted)")
    assert "\naccepted        short_window: 1.0 s measured\n" in text


def test_errors_are_named(documents: list[ResultDocument]) -> None:
    """How many ops failed, and with what."""
    text = printed(documents[3])
    assert "\nerrors          100 ops failed (EIO 100)\n" in text


def test_each_tier_has_its_throughput(documents: list[ResultDocument]) -> None:
    """Tiers are never added up; rows of times say of which tier they are."""
    text = printed(documents[6])
    assert "cpu throughput" in text
    assert "nvme throughput" in text
    assert "cpu prefill read" in text


def test_other_encodings_escape_what_they_lack(documents: list[ResultDocument]) -> None:
    """An ASCII terminal gets no error; figures stay."""
    text = printed(documents[0], encoding="ascii")
    assert text.isascii()
    assert "10,000" in text


@pytest.mark.slow
def test_full_prints_the_tables(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """`--full` of both commands; without it the 20 lines, and where reports are."""
    path = synthetic.bimodal(tmp_path / "r.parquet")
    page, trace = tmp_path / "r.json", write_trace(tmp_path / "t.parquet", reads(50, 1000))
    brief, full = cli("report", path, "--report", page), cli("report", path, "--full")
    assert len(brief.out.splitlines()) <= short.LINES
    assert page.name in "".join(brief.out.split())
    assert "P99.99" not in brief.out
    assert "P99.99" in full.out
    assert json.loads(page.read_text())["verdict"] == "UNJUDGED"
    words = ("replay", trace, "--target", "null", "--mode", "max", "--min-window", "0s")
    assert len(cli(*words).out.splitlines()) <= short.LINES
    assert "P99.99" in cli(*words, "--full").out
