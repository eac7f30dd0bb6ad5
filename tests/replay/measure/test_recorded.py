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
from replay.measure.recorded import recorded_flights
from replay.report import short, terminal
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
    assert (flights[Tier.CPU].mean, flights[Tier.CPU].max) == (1.0, 1)


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
    assert "nvme in flight when recorded: 1.17 mean, 3 max" in out
    assert "cpu in flight when recorded: 1.00 mean, 1 max" in out
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
    text = shown(document, short)
    assert "when recorded 1.2 mean, 3 max (--mode max: what more gives)" in " ".join(text.split())
    assert len(text.splitlines()) <= 20
    assert "when recorded     1.2 mean, 3 max" in shown(document, terminal)
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
