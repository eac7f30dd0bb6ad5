"""Figures that must agree do, in every report, over random runs."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from rich.console import Console

import replay
from kvtrace.trace.reader import open_trace
from kvtrace.trace.schema import Op, Phase, Tier
from kvtrace.units import MIB, MS_NS, S_NS
from replay import report
from replay.execution.output import Outputs
from replay.measure.in_flight import FlightCounter
from replay.measure.recorder import Recorder
from replay.ops.contract import Mode
from replay.ops.counters import LaneCounters
from replay.report import terminal
from replay.result import stored
from tests.support import sums
from tests.support.examples import examples, rest_slow
from tests.support.finished import START, finished, reads, record
from tests.support.making import make
from tests.support.traces import Row, simple_rows, write_trace
from tests.support.whole import record_waterfall

if TYPE_CHECKING:
    from pathlib import Path

    from replay.result.document import ResultDocument

RUNS = examples(16)


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One of 4 KiB objects, with requests and classes; one of objects of several I/Os."""
    folder = tmp_path_factory.mktemp("traces")
    make(folder / "large.parquet", duration="2s", source__users=3,
                 tiers__gpu__capacity=0, tiers__cpu__capacity="8MiB")  # fmt: skip
    return [record_waterfall(folder), folder / "large.parquet"]


def targets(rng: np.random.Generator, folder: Path) -> list[replay.TargetSpec]:
    """Return targets of two tiers: the lower one a file, a folder or nothing."""
    null = replay.TargetSpec("null", (Tier.CPU, Tier.NVME))
    memory = replay.TargetSpec("memory", (Tier.CPU,))
    file = replay.TargetSpec("file", (Tier.NVME,), path=folder / "target")
    return [[null], [memory], [memory, file], [file]][int(rng.integers(4))]


def options(rng: np.random.Generator) -> replay.ReplayOptions:
    """Return options that change what is counted where."""
    return replay.ReplayOptions(
        mode=str(rng.choice(["open", "closed", "max"])),  # type: ignore[arg-type]
        speed=float(rng.choice([20, 60, 1000])),
        queue_depth=int(rng.choice([1, 3, 64])),
        io_size_bytes=int(rng.choice([4096, 65_536, MIB])),
        threads=int(rng.integers(1, 3)),
        warmup_ns=int(rng.choice([0, 0, 5 * MS_NS, 50 * MS_NS, S_NS])),
        limit_rows=[None, 900, 2_000][int(rng.integers(3))],
        arena_bytes=16 * MIB,
        settle_ns=0,
        min_window_ns=0,
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(RUNS))
def test_sums_agree_in_all_reports(
    traces: list[Path], tmp_path: Path, direct_path: Path, seed: int
) -> None:
    """By kind, by tier, by phase, over time: in each form, and computed again from the ops."""
    rng = np.random.default_rng(seed)
    out = tmp_path / "out.parquet"
    trace = traces[int(rng.integers(2))]
    with Outputs((trace,), out, (), force=False) as outputs, open_trace(trace) as opened:
        outputs.open(opened)
        result = replay.run(opened, targets(rng, tmp_path), options(rng), journal=outputs)
        outputs.write(result)
    check_all(result.document(), tmp_path)
    again = stored.load(out, from_ops=True)
    sums.check_document(again.model_dump(mode="json"))
    sums.check_figures(again)


def check_all(document: ResultDocument, folder: Path) -> None:
    """Write all forms and add up each."""
    for suffix in sums.FORMS:
        report.write(document, folder / f"r{suffix}")
    found = json.loads((folder / "r.json").read_text())
    sums.check_document(found)
    sums.check_figures(document)
    sums.check_csv(folder / "r.csv", found)
    sums.check_workbook(folder / "r.xlsx", found)
    sums.check_mlperf(folder / "r.mlperf.json", found)
    sums.check_page(folder / "r.html", found)
    console = Console(file=io.StringIO(), width=80, highlight=False)
    for part in terminal.render(document):
        console.print(part)
    sums.check_terminal(console.file.getvalue(), found)  # type: ignore[attr-defined]


def test_what_drains_is_in_no_rate(tmp_path: Path) -> None:
    """Of a read that completes after the last submit neither the rate nor the throughput has it."""
    rows: list[Row] = [
        (0, Op.READ, Tier.NVME, 1, Phase.DECODE, 4096),
        (0, Op.WRITE, Tier.NVME, 2, Phase.EVICT, 8192),
        (MS_NS, Op.READ, Tier.NVME, 3, Phase.DECODE, 4096),
    ]
    done = finished(rows, complete_ns=[MS_NS // 2, MS_NS // 2, 9 * MS_NS])
    lane = record(done).measure(0, Tier.NVME, (LaneCounters(),))
    assert (lane.reads_per_s, lane.read_bytes_per_s) == (1000, 4096 * 1000)
    assert (lane.writes_per_s, lane.write_bytes_per_s) == (1000, 8192 * 1000)
    assert lane.throughput_bytes_per_s == (4096 + 8192) * 1000
    assert lane.bytes == 4096 * 2 + 8192


def test_bytes_are_spread_over_the_service_time() -> None:
    """An object of 1 s at 2 GB/s is 2 GB/s in each slice, not 32 GB/s in its last one."""
    size = 2 * 10**9
    found = finished(reads(1, 0, size), complete_ns=[S_NS])
    series = record(found).measure(0, Tier.NVME, (LaneCounters(),)).time_slices
    assert series.read_bytes == [size // 16] * 16 + [0]
    assert series.reads == [0] * 16 + [1]


def test_spreading_is_exact_however_slices_widen() -> None:
    """Bytes add up to the ops' own, and merged slices are those of a run that began with them."""
    rng = np.random.default_rng(11)
    count = 300
    due = np.sort(rng.integers(0, 200 * S_NS, count))
    rows: list[Row] = [
        (int(at), Op.READ, Tier.NVME, index, Phase.DECODE, int(size))
        for index, (at, size) in enumerate(zip(due, rng.integers(1, 10**9, count), strict=True))
    ]
    took = rng.integers(0, 20 * S_NS, count) * rng.integers(0, 2, count)
    done = finished(rows, complete_ns=due + took)
    whole, parts = record(done), Recorder(1, Mode.OPEN, START)
    for begin in range(0, count, 7):
        parts.add(done.select(np.arange(begin, min(count, begin + 7))))
    parts.finish()
    for recorder in (whole, parts):
        slices = recorder.lanes[0].slices.series(scheduled=True, divided=True)
        assert sum(slices.read_bytes) == done.size_bytes.sum()
    one, other = (
        recorder.lanes[0].slices.series(scheduled=True, divided=True) for recorder in (whole, parts)
    )
    assert one.width_s == other.width_s > 1 / 16
    assert one.read_bytes == other.read_bytes


@pytest.mark.parametrize("batch", [1, 5, 64, 1000])
def test_the_most_in_flight_is_exact(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    """Ops come in the trace's order, not that of their submits; those that end make room first."""
    monkeypatch.setattr("replay.measure.in_flight.KEPT", 64)
    rng = np.random.default_rng(5)
    submit = np.arange(1000) * 1000 + rng.integers(0, 20_000, 1000)
    complete = submit + rng.integers(0, 50_000, 1000)
    counted = FlightCounter(0)
    for begin in range(0, 1000, batch):
        counted.add(submit[begin : begin + batch], complete[begin : begin + batch])
    steps = sorted([(int(at), 1) for at in submit] + [(int(at), -1) for at in complete])
    expected = int(np.cumsum([step for _, step in steps]).max())
    flight = counted.flight()
    assert flight.max == expected
    assert flight.mean == pytest.approx((complete - submit).sum() / complete.max())
    assert counted.flight() == flight, "asking changes nothing"


@pytest.mark.slow
def test_ops_and_ios_in_flight_are_apart(tmp_path: Path, direct_path: Path) -> None:
    """Objects of four I/Os, one object at a time: one op and up to four I/Os in flight."""
    rows = simple_rows(8, size=4 * 65_536, gap_ns=20 * MS_NS)
    trace = write_trace(tmp_path / "t.parquet", rows)
    found = replay.run(
        trace,
        [replay.TargetSpec("file", (Tier.NVME,), path=tmp_path / "target")],
        replay.ReplayOptions(
            io_size_bytes=65_536, arena_bytes=16 * MIB, settle_ns=0, min_window_ns=0, speed=2
        ),
    ).document()
    flight = found.lanes[0].in_flight
    assert flight is not None
    assert flight.ios is not None
    assert flight.ops.max < flight.ios.max <= 4 * flight.ops.max
    assert flight.ops.mean < flight.ios.mean < 4 * flight.ops.mean + 1e-9
    console = Console(file=io.StringIO(), width=80, highlight=False)
    for part in terminal.render(found):
        console.print(part)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"ops in flight     {flight.ops.mean:.1f} mean, {flight.ops.max} max" in text
    assert f"I/Os in flight    {flight.ios.mean:.1f} mean, {flight.ios.max} max" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "base"), rest_slow([("closed", "due"), ("max", "submit"), ("open", "due")], quick=2)
)
def test_requests_say_what_their_times_count_from(
    traces: list[Path], tmp_path: Path, mode: str, base: str
) -> None:
    """In max mode nothing is due: all reports say that times begin at the submit."""
    result = replay.run(
        traces[0],
        [replay.TargetSpec("null", (Tier.NVME,))],
        replay.ReplayOptions(mode=mode, speed=100, min_window_ns=0),  # type: ignore[arg-type]
    )
    document = result.document()
    assert document.requests is not None
    assert document.requests.counted_from == base
    check_all(document, tmp_path)
    console = Console(file=io.StringIO(), width=80, highlight=False)
    for part in terminal.render(document):
        console.print(part)
    printed = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    page = (tmp_path / "r.html").read_text()
    theirs = (tmp_path / "r.mlperf.json").read_text()
    assert ("since ready" in printed) == (base == "submit")
    assert ("nothing is due here" in page) == (base == "submit")
    for text in (printed.lower(), page.lower()):
        assert ("no op has a due time here" in text) == (base == "submit")
    assert ("nothing is due in mode max" in theirs) == (base == "submit")
