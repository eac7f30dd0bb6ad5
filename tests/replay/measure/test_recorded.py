"""The depth that an engine kept when its trace was recorded, beside the replay's."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest
from rich.console import Console

import kvtrace
import replay
from kvtrace.trace.schema import Op, Phase, Tier
from kvtrace.units import format_rate
from replay.measure.figures import Flight, RecordedFlight
from replay.measure.recorded import recorded_flights
from replay.report import html, short, terminal
from replay.report.sections.lanes import depth
from tests.support.making import write_rows
from tests.support.places import SAMPLES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.command import Outcome

    Cli = Callable[..., Outcome]

MS = 1_000_000


def expected(rows: pl.DataFrame, tier: str) -> tuple[float, int]:
    """Return mean and most in flight, step by step, by polars from the rows alone."""
    own = rows.with_columns(pl.col("op", "tier").cast(pl.String)).filter(
        (pl.col("tier") == tier) & pl.col("op").is_in(["read", "write"])
    )
    begins = own.select(at="submit", step=pl.lit(1))
    ends = own.select(at="complete", step=pl.lit(-1))
    steps = pl.concat([begins, ends]).sort("at", "step")
    length = own["complete"].max() - own["submit"].min()  # type: ignore[operator]
    mean = (own["complete"] - own["submit"]).sum() / length
    return mean, int(steps["step"].cum_sum().max())  # type: ignore[arg-type]


def recorded(path: Path) -> Path:
    """Write reads of nvme of which three overlap, and one of cpu."""
    starts = [0, 1, 2, 10, 20]
    rows = [
        (at * MS, Op.READ, 4096, Tier.CPU if at == 20 else Tier.NVME, at + 1, Phase.DECODE)
        for at in starts
    ]
    submit = np.array(starts, np.int64) * MS + 5 * MS
    times = {"submit": submit, "complete": submit + np.array([4, 4, 4, 2, 1]) * MS}
    return write_rows(path, rows, **times)


def test_by_hand(tmp_path: Path) -> None:
    """14 ms of reads within 12 ms of time, three of them at once; of cpu, one."""
    with kvtrace.open(recorded(tmp_path / "t.parquet")) as trace:
        flights = recorded_flights(trace)
    assert flights[Tier.NVME].mean == pytest.approx(14 / 12)
    assert flights[Tier.NVME].max == 3
    assert flights[Tier.NVME].bytes_per_s == pytest.approx(4 * 4096 / 0.012)
    assert flights[Tier.CPU] == RecordedFlight(mean=1.0, max=1, bytes_per_s=4096 / 0.001)


def test_a_failed_op_moved_nothing(tmp_path: Path) -> None:
    """It was in flight; its bytes weren't moved. Ops of no time have no rate."""
    rows = [(at * MS, Op.READ, 4096, Tier.NVME, at + 1, Phase.DECODE) for at in range(2)]
    rows.append((2 * MS, Op.READ, 4096, Tier.CPU, 9, Phase.DECODE))
    times = {"submit": np.array([0, 0, 5], np.int64) * MS,
             "complete": np.array([4, 2, 5], np.int64) * MS}  # fmt: skip
    path = write_rows(tmp_path / "t.parquet", rows, **times, error=np.array([0, 5, 0], np.int32))
    with kvtrace.open(path) as trace:
        flights = recorded_flights(trace)
    assert flights[Tier.NVME] == RecordedFlight(mean=1.5, max=2, bytes_per_s=4096 / 0.004)
    assert flights[Tier.CPU].bytes_per_s is None


@pytest.mark.parametrize("name", ["vllm_tiering_fs", "mooncake_ssd_offload", "lmcache_sm_fs"])
def test_live_recordings(name: str, cli: Cli) -> None:
    """Of each engine's recording, every tier's figures are those of a query of its rows."""
    path = SAMPLES / "capture" / f"{name}.parquet"
    if not path.exists():
        pytest.skip("needs the shared samples")
    rows = pl.read_parquet(path)
    info = json.loads(cli("info", path, "--json", "--no-space").out)["recorded_in_flight"]
    assert info
    for tier, flight in info.items():
        mean, most = expected(rows, tier)
        assert flight["mean"] == pytest.approx(mean), tier
        assert flight["max"] == most, tier


def test_info_prints_it(tmp_path: Path, cli: Cli, small_trace: Path) -> None:
    """A line per tier; nothing, and null, of a trace that was simulated."""
    out = cli("info", recorded(tmp_path / "t.parquet")).out
    assert "nvme in flight when recorded: 1.17 mean, 3 max, 0.001 GB/s" in out
    assert "cpu in flight when recorded: 1.00 mean, 1 max, 0.004 GB/s" in out
    assert "when recorded" not in cli("info", small_trace).out
    assert json.loads(cli("info", small_trace, "--json").out)["recorded_in_flight"] is None


def test_a_replay_puts_it_beside_its_own(tmp_path: Path, small_trace: Path) -> None:
    """In the document, in the short report and among a tier's figures; not where it is unknown."""
    options = replay.ReplayOptions(settle_ns=0, min_window_ns=0, arena_bytes=1 << 24, speed=1)  # type: ignore[arg-type]
    target = [replay.TargetSpec("null", (Tier.NVME,))]
    document = replay.run(recorded(tmp_path / "t.parquet"), target, options).document()
    [lane] = document.lanes
    assert lane.in_flight is not None
    assert lane.in_flight.recorded is not None
    assert (lane.in_flight.recorded.max, lane.in_flight.ops.max) == (3, lane.in_flight.ops.max)
    assert lane.in_flight.recorded.bytes_per_s == pytest.approx(4 * 4096 / 0.012)
    assert lane.in_flight.ops.mean == 0, "a target that completes at once"
    moved = format_rate(lane.throughput_bytes_per_s or 0)
    sentence = (
        f"engine kept 1.2 ops in flight and moved 0.001 GB/s; this replay kept 0.0 and moved "
        f"{moved} (--mode max for more)"
    )
    text = shown(document, short)
    assert f"in flight the {sentence}" in " ".join(text.split())
    assert len(text.splitlines()) <= 20
    whole = shown(document, terminal)
    assert "when recorded     1.2 mean, 3 max, 0.001 GB/s" in whole
    assert f"The {sentence}." in " ".join(whole.split())
    assert f"The {sentence}." in html.text(document)
    shallow = lane.in_flight.model_copy(update={"ops": Flight(mean=0.04, max=1)})
    assert "this replay kept under 0.1 and" in depth(
        lane.model_copy(update={"in_flight": shallow}), document
    )
    deeper = document.model_copy(
        update={"config": document.config.model_copy(update={"mode": "max"})}
    )
    assert f"moved {moved} verified" in " ".join(shown(deeper, short).split())
    options = options.model_copy(update={"mode": replay.ReplayOptions(mode="max").mode})
    plain = replay.run(small_trace, target, options).document()
    assert plain.lanes[0].in_flight is not None
    assert plain.lanes[0].in_flight.recorded is None
    assert "when recorded" not in shown(plain, short)


def shown(document: object, form: object) -> str:
    """Return a report as a terminal of 80 columns has it."""
    console = Console(file=io.StringIO(), width=80, highlight=False)
    for part in form.render(document):  # type: ignore[attr-defined]
        console.print(part)
    return str(console.file.getvalue())  # type: ignore[attr-defined]
