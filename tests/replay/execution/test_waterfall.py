"""Recorded demotions and promotions through whole runs: load, order, repetition."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from rich.console import Console

import replay
from kvtrace.trace.schema import Tier
from replay import ReplayOptions
from replay.report import terminal
from replay.targets.support.simulated import faulty_target, stall_target
from tests.support import by_hand
from tests.support.runs import churning_rows, reasons, simulated
from tests.support.traces import MIB, file_target, write_trace
from tests.support.whole import Command, codes, load_of, record_waterfall, serial_device

if TYPE_CHECKING:
    from pathlib import Path

CPU, NVME = Tier.CPU, Tier.NVME
Quick = Callable[..., ReplayOptions]


@pytest.fixture
def command(cli: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """`kvtrace replay` on ready-made targets."""
    return Command(cli, monkeypatch, tmp_path)


@pytest.fixture(scope="module")
def waterfall(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trace with demotions on both lower tiers, and promotions."""
    return record_waterfall(tmp_path_factory.mktemp("waterfall"))


def parts_ns(document: dict[str, Any], name: str, figure: str) -> list[int]:
    """Return a figure of one part of lateness, per lane."""
    return [lane["lateness_ns"][name][figure] for lane in document["lanes"]]


@pytest.mark.slow
@pytest.mark.parametrize("tier", [CPU, NVME])
def test_half_the_speed_of_a_device_is_valid_and_twice_is_overloaded(
    command: Command, waterfall: Path, tier: Tier
) -> None:
    """Waiting for the order of demotions is no lateness of the tool's, and overload no INVALID."""
    service_ns = 1_000_000
    load = load_of(waterfall, tier)
    for ratio, first_line in ((0.5, "VALID"), (2.0, "VALID OVERLOADED")):
        speed = ("--speed", load.speed(service_ns, ratio), "--slack", 0)
        device = serial_device(tier, service_ns, virtual=True)
        outcome, found = command(waterfall, [device], *speed)
        assert outcome.out.splitlines()[0] == first_line
        assert (outcome.code, found["verdict"], found["reasons"]) == (0, "VALID", [])
        assert [mark["code"] for mark in found["marks"]] == first_line.split()[1:]
        assert parts_ns(found, "dependency_wait_ns", "p99")[0] > 10 * service_ns
        assert parts_ns(found, "host_lateness_ns", "max") == [0]
        assert found["ops"] > load.ios
        assert found["fidelity"]["order_violations"] == 0


@pytest.mark.slow
def test_two_tiers_at_half_and_at_twice_the_speed_of_a_device(
    command: Command, waterfall: Path
) -> None:
    """Demotions wait for the tier above, in real time; the tool's own share of it is small."""
    accept = ("--accept", "host_lateness")  # of a busy test machine, held against the rest below
    load = load_of(waterfall, NVME)
    service_ns = load.span_ns // load.ios // 4
    for ratio, marks in ((0.5, set()), (2.0, {"OVERLOADED"})):
        devices = [
            simulated(stall_target(2_000_000), CPU),
            serial_device(NVME, service_ns, virtual=False),
        ]
        speed = load.speed(service_ns, ratio)
        outcome, found = command(waterfall, devices, *accept, "--speed", speed, "--slack", 0)
        assert outcome.code == 0
        assert codes(found) <= {"host_lateness"}
        assert {mark["code"] for mark in found["marks"]} == marks
        host, waited = (
            max(parts_ns(found, name, "p99")) for name in ("host_lateness_ns", "dependency_wait_ns")
        )
        assert host < waited / 4


@pytest.mark.slow
def test_a_trace_replayed_twice_moves_the_same_to_the_same_extents(
    direct_path: Path, waterfall: Path, quick: Quick
) -> None:
    """Whatever the payload: one table of ops, sizes and places; other traces have others."""
    names = ("op", "tier", "phase", "key", "size", "offset", "due", "error")
    found = []
    for run_id in (3, 4):
        spec = file_target(direct_path / f"target{run_id}")
        result = replay.run(waterfall, [spec], quick(run_id=run_id, speed=100.0))
        assert reasons(result) == set()
        lane = result.headline
        found.append((result.ops, result.bytes, lane.device_bytes, result.table().select(names)))
    assert found[0][:3] == found[1][:3]
    assert found[0][3].equals(found[1][3])


@pytest.mark.slow
def test_a_run_id_gives_a_device_the_same_bytes(
    loop_device: Callable[..., Path], waterfall: Path, quick: Quick
) -> None:
    """Two devices, one run id: one digest; another id: another one."""
    digests = []
    for run_id in (3, 3, 4):
        loop = loop_device(8 * MIB)
        spec = file_target(loop, allow_destroy=str(loop))
        result = replay.run(waterfall, [spec], quick(run_id=run_id, mode="max"))
        assert reasons(result) == set()
        digests.append(hashlib.sha256(loop.read_bytes()).hexdigest())
    assert digests[0] == digests[1] != digests[2]


def shifted(table: pl.DataFrame, op: str) -> pl.DataFrame:
    """Return a table in which the last op of a kind began, and ended, before everything else."""
    last = table.with_row_index().filter(pl.col("op") == op)["index"].max()
    early = pl.int_range(pl.len()) == last
    return table.with_columns(
        pl.when(early).then(-1).otherwise(pl.col(name)).alias(name)
        for name in ("submit", "complete")
    )


def assert_stated(result: replay.Result) -> None:
    """The fidelity section says it: no violation, and phase by phase what the trace has."""
    assert any(re.match(r"order violations +0 *$", text) for text in printed(result))
    fidelity = result.document().model_dump(mode="json")["fidelity"]
    assert fidelity["order_violations"] == 0
    assert {"evict", "decode"} <= {phase["phase"] for phase in fidelity["phases"]}
    for phase in fidelity["phases"]:
        assert phase["trace_ops"] == phase["executed_ops"] > 0
        assert phase["trace_bytes"] == phase["executed_bytes"]


def printed(result: replay.Result) -> list[str]:
    """Return the lines of the report for people."""
    console = Console(width=200, file=io.StringIO())
    with console.capture() as captured:
        for part in terminal.render(result.document()):
            console.print(part)
    return captured.get().splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("source", ["recorded", pytest.param("random", marks=pytest.mark.slow)])
def test_all_modes_do_the_same_in_an_order_that_was_checked_by_hand(
    waterfall: Path, tmp_path: Path, quick: Quick, source: str
) -> None:
    """Random delays, no spare space: the rules hold pair by pair, and nothing is left out."""
    trace = waterfall
    if source == "random":
        trace = write_trace(tmp_path / "t.parquet", churning_rows(11, 1_000))
    delays = np.random.default_rng(5).integers(0, 100_000, 997).tolist()
    names = ["op", "tier", "phase", "key", "size"]
    done = []
    for mode in ("open", "closed", "max"):
        targets = [simulated(faulty_target({}, delays), tier) for tier in (CPU, NVME)]
        result = replay.run(
            trace,
            targets,
            quick(mode=mode, speed=50.0, slack_ratio=0.0, verify="full", limit_rows=2_000),
        )
        assert reasons(result) == set()
        table = result.table()
        assert by_hand.violations(table) == []
        assert by_hand.violations(shifted(table, "delete")), "the check finds nothing"
        assert_stated(result)
        for lane, target in zip(result.lanes, targets, strict=True):
            mine = table.filter(table["tier"] == target.spec.tiers[0].label)
            end = int((mine["offset"] + mine["run"]).max())  # type: ignore[arg-type]
            assert end <= lane.space_needed_bytes
        done.append(table.select(names).sort(names))
    assert done[0].equals(done[1])
    assert done[0].equals(done[2])
