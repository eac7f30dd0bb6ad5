"""Pages of traces (`info --report`, `diff --report`): figures, odd traces, refusals, a browser."""

from __future__ import annotations

import errno
import json
import re
import sys
from html import unescape
from typing import TYPE_CHECKING, Any

import numpy as np
import openpyxl
import pytest

from kvtrace.trace.header import Header, SourceInfo
from kvtrace.trace.schema import Op, Phase, Tier
from kvtrace.trace.writer import TraceWriter
from tests.support import recordings
from tests.support.browser import opened, undrawn
from tests.support.making import write_rows

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.command import Outcome

    Cli = Callable[..., Outcome]

MIB = 1 << 20
HOSTILE = "<script>alert(1)</script>&\"'\x1b[31m\u202e"


def specs(page: str) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each chart, by its caption."""
    charts = {}
    for text in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page):
        spec = json.loads(text)
        charts[spec["description"]] = [row for rows in spec["datasets"].values() for row in rows]
    return charts


def headline(page: str) -> str:
    """Return the sentences on top."""
    return unescape(" ".join(re.findall(r'<p class="headline">(.*?)</p>', page)))


@pytest.mark.slow
def test_the_three_forms_have_the_same_figures(small_trace: Path, tmp_path: Path, cli: Cli) -> None:
    """Page, workbook and JSON say what `info --json` says; rates over time add up to the bytes."""
    paths = [tmp_path / f"t.{kind}" for kind in ("html", "json", "xlsx")]
    outcome = cli("info", small_trace, "--json", *(x for p in paths for x in ("--report", p)))
    assert outcome.code == 0, outcome
    info, told = json.loads(outcome.out), json.loads(paths[1].read_text())
    made = told.pop("profile")
    assert told == info
    page = paths[0].read_text()
    assert headline(page).startswith(f"{info['rows']:,} ops on 3 tiers (gpu, cpu, nvme) over ")
    assert f"{made['hit_ratio']:.1%} of the objects that requests asked for" in headline(page)
    charts = specs(page)
    for name, tier in info["tiers"].items():
        slices = made["time_slices"]["tiers"][name]
        assert sum(slices["read_bytes"]) == tier["read_bytes"]
        assert sum(slices["write_bytes"]) == tier["write_bytes"]
        rows = [row for row in charts[f"Tier {name}: GB/s"] if row["of"] == "writes"][:-1]
        width_s = made["time_slices"]["width_ns"] / 1e9
        drawn = sum(row["value"] for row in rows) * width_s * 1e9
        assert drawn == pytest.approx(tier["write_bytes"], rel=1e-4)
        assert made["tiers"][name]["held_bytes_max"] == max(slices["held_bytes_max"])
    assert info["content_sha256"] in page
    book = openpyxl.load_workbook(paths[2])
    heads, *rows = book["Over time"].iter_rows(values_only=True)
    column = heads.index("nvme write bytes")
    assert sum(row[column] for row in rows) == info["tiers"]["nvme"]["write_bytes"]
    assert [row[0] for row in book["Tiers"].iter_rows(min_row=2, values_only=True)] == [
        "gpu", "cpu", "nvme",
    ]  # fmt: skip


ODD = {
    "empty": ([], "The trace has no rows."),
    "one row": ([(7, Op.READ, MIB, Tier.CPU, 1, Phase.DECODE)], "All rows have the same timestamp"),
    "no reads": (
        [(at, Op.WRITE, MIB, Tier.CPU, at, Phase.PREFILL) for at in range(3)], "No reads on cpu."
    ),
    "look-ups": (
        [(at, Op.LOOKUP, 0, Tier.CPU, at, Phase.DECODE) for at in range(3)],
        "It neither reads nor writes.",
    ),
    "deletes": (
        [(at, Op.DELETE, MIB, Tier.NVME, at, Phase.EVICT) for at in range(3)],
        "It neither reads nor writes.",
    ),
    "late": (
        [((1 << 62) - 1 - at, Op.READ, MIB, Tier.NVME, 1, Phase.DECODE) for at in (9, 0)],
        "The rows don't tell requests apart",
    ),
    "a century": (
        [(at * (1 << 56), Op.READ, 1 << 40, Tier.NVME, 1, Phase.DECODE) for at in range(3)],
        "3.00 TiB read",
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD)
def test_odd_traces_have_pages(name: str, tmp_path: Path, cli: Cli) -> None:
    """Without rows, reads, time or tiers the page says so; no figure is NaN, no chart is empty."""
    rows, words = ODD[name]
    trace = write_rows(tmp_path / "t.parquet", rows)
    paths = [tmp_path / f"t.{kind}" for kind in ("html", "json", "xlsx")]
    outcome = cli("info", trace, *(x for p in paths for x in ("--report", p)))
    assert outcome.code == 0, outcome
    page = paths[0].read_text()
    visible = unescape(re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL))
    assert words in visible
    assert "NaN" not in visible
    assert all(specs(page).values())
    json.loads(paths[1].read_text(), parse_constant=pytest.fail)
    other = cli("diff", trace, trace, "--report", tmp_path / "d.html")
    assert other.code == 0, other
    assert all(specs((tmp_path / "d.html").read_text()).values())


@pytest.mark.slow
def test_strings_of_a_trace_are_text(tmp_path: Path, cli: Cli) -> None:
    """Names, file names and configurations with tags, quotes and escapes steer nothing."""
    header = Header(
        source=SourceInfo(name=HOSTILE), seed=1, config={HOSTILE: HOSTILE},
        model={"name": HOSTILE}, history=[{"tool": HOSTILE}],
    )  # fmt: skip
    trace = tmp_path / "<b>&amp;'\".parquet"
    rows = [(at, Op.READ, MIB, Tier.CPU, 1, Phase.DECODE) for at in (0, 5)]
    write_rows(trace, rows, header)
    other = write_rows(tmp_path / "<i>.parquet", rows[:1], header)
    page, both = tmp_path / "t.html", tmp_path / "d.html"
    assert cli("info", trace, "--report", page).code == 0
    assert cli("diff", trace, other, "--report", both).code == 0
    for path in (page, both):
        text = path.read_text()
        assert "<script>alert" not in text
        assert "<b>&amp;'" not in text
        assert "<i>" not in text
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "&lt;script&gt;alert(1)" in text


@pytest.mark.slow
def test_reports_are_refused_before_anything_is_read(tmp_path: Path, cli: Cli) -> None:
    """A name that is taken, an input's own, another suffix, a missing folder: nothing changes."""
    trace = write_rows(tmp_path / "t.parquet", [(0, Op.READ, 1, Tier.CPU, 1, Phase.DECODE)])
    taken = tmp_path / "taken.html"
    taken.write_text("mine")
    for command in (("info", trace), ("diff", trace, trace)):
        outcome = cli(*command, "--report", taken)
        assert (outcome.code, outcome.out) == (4, "")
        assert "exists already" in outcome.error
        assert taken.read_text() == "mine"
        outcome = cli(*command, "--report", tmp_path / "t.pdf")
        assert outcome.code == 2
        assert ".html, .json, .xlsx" in outcome.error
        assert cli(*command, "--report", trace, "--force").code != 0
        assert cli(*command, "--report", tmp_path / "no" / "t.html").code == 4
    assert cli("info", trace, "--report", taken, "--force").code == 0
    assert "<!doctype html>" in taken.read_text()
    assert cli("info", trace).code == 0


def test_a_page_needs_its_packages(
    small_trace: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without altair it is said at once what to install; JSON needs none."""
    monkeypatch.setitem(sys.modules, "altair", None)
    outcome = cli("info", small_trace, "--report", tmp_path / "t.html")
    assert outcome.code == 4
    assert "pip install kvtrace[plot]" in outcome.error
    assert cli("info", small_trace, "--report", tmp_path / "t.json").code == 0


@pytest.fixture
def half(small_trace: Path, tmp_path: Path, cli: Cli) -> Path:
    """The second half of the trace."""
    path = tmp_path / "half.parquet"
    assert cli("slice", small_trace, path, "--from", "10s").code == 0
    return path


@pytest.mark.slow
def test_two_traces_side_by_side(small_trace: Path, half: Path, tmp_path: Path, cli: Cli) -> None:
    """The figures are those of `diff --json`; what differs is drawn, what doesn't is named."""
    page, told, book = (tmp_path / f"d.{kind}" for kind in ("html", "json", "xlsx"))
    outcome = cli("diff", small_trace, half, "--json", "--report", page, "--report", told,
                  "--report", book)  # fmt: skip
    assert outcome.code == 0, outcome
    assert json.loads(told.read_text()) == json.loads(outcome.out)
    differences = json.loads(outcome.out)["differences"]
    text = page.read_text()
    most = max(differences, key=lambda each: each["ks"])
    assert f"They differ most in tier {most['tier']}'s " in headline(text)
    assert f"distance {most['ks']:.3f}." in headline(text)
    drawn = specs(text)
    apart = [each for each in differences if each["ks"] > 0.01 and each["quantity"] != "read_share"]
    assert len([name for name in drawn if "(KS " in name]) == len(apart) > 0
    for name, rows in drawn.items():
        if "(KS " in name:
            assert {row["of"] for row in rows} == {"small.parquet", "half.parquet"}
    heads, *rows = openpyxl.load_workbook(book)["Distances"].iter_rows(values_only=True)
    expected = [each["ks"] for each in differences]
    assert [row[heads.index("KS")] for row in rows] == pytest.approx(expected)


@pytest.mark.slow
def test_a_trace_is_equal_to_itself(small_trace: Path, tmp_path: Path, cli: Cli) -> None:
    """The page says that nothing differs, and tells two files of one name apart."""
    path = tmp_path / "d.html"
    assert cli("diff", small_trace, small_trace, "--report", path).code == 0
    text = path.read_text()
    assert headline(text).startswith("No quantity that is compared differs. A small.parquet: ")
    assert not [name for name in specs(text) if "(KS " in name]
    assert "not drawn: gpu size" in text


@pytest.mark.slow
@pytest.mark.parametrize("command", ["info", "diff"])
def test_the_page_in_a_browser(
    command: str, small_trace: Path, half: Path, tmp_path: Path, cli: Cli
) -> None:
    """All charts are drawn, the console is silent; at 1,280 and 390 px nothing is cut."""
    path = tmp_path / "p.html"
    traces = [small_trace] if command == "info" else [small_trace, half]
    assert cli(command, *traces, "--report", path).code == 0
    with opened(path) as driver:
        size = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        assert len(driver.find_elements("css selector", ".chart")) > 8
        assert undrawn(driver) == []
        assert driver.get_log("browser") == []
        loaded = driver.execute_script("return performance.getEntriesByType('resource')")
        assert [entry["name"] for entry in loaded if not entry["name"].startswith("data:")] == []
        over = "return [...document.querySelectorAll('.scroll')].map((d) => d.scrollWidth - "
        assert max(driver.execute_script(f"{over} d.clientWidth)")) <= 0
    with opened(path, phone=True) as driver:
        assert driver.execute_script("return document.documentElement.scrollWidth") <= 390
        assert undrawn(driver) == []


@pytest.mark.slow
def test_pages_of_one_kind_of_row_in_a_browser(tmp_path: Path, cli: Cli) -> None:
    """A distribution of one value, and a tier's single bar, can be seen."""
    count = 50
    columns = {
        "timestamp": np.arange(count, dtype=np.int64), "op": np.zeros(count, np.uint8),
        "size": np.full(count, 1, np.uint64), "tier": np.full(count, Tier.OBJECT, np.uint8),
        "key": np.zeros(count, np.uint64), "phase": np.full(count, Phase.DECODE, np.uint8),
        "request": np.zeros(count, np.uint64),
    }  # fmt: skip
    trace, path = tmp_path / "t.parquet", tmp_path / "t.html"
    with TraceWriter(trace, Header(), ("request",)) as writer:
        writer.append(columns)
    assert cli("info", trace, "--report", path).code == 0
    with opened(path) as driver:
        assert undrawn(driver) == []
        assert driver.get_log("browser") == []


@pytest.mark.slow
def test_a_capture_s_page_shows_its_outcomes_depth_and_losses(tmp_path: Path, cli: Cli) -> None:
    """Look-ups that hit, what was in flight, ops that moved nothing, and what was lost."""
    missed = recordings.record(Op.LOOKUP, 1, 0, 1, size=0, error=errno.ENOENT)
    skipped = recordings.write(1, 10, 11, error=errno.EEXIST)
    some = recordings.rows(missed, recordings.write(1, 2, 6), skipped)
    recordings.write_part(tmp_path / "c", [some], ended=False)
    trace, page = tmp_path / "t.parquet", tmp_path / "t.html"
    cli("import", tmp_path / "c", trace)
    cli("info", trace, "--report", page)
    text = re.sub(r"<[^>]+>", " ", page.read_text())
    assert "look-ups that hit" in text
    assert "in flight when recorded" in text
    assert re.search(r"nvme\s+write\s+skipped\s+1\s+32\.00 KiB", text)
    assert "lmcache 0.5.6, 1 process; 1 processes without an end" in text
