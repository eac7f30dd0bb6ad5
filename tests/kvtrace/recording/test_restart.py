"""A restart of the engine: what memory held is gone, the tiers below give back what they have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from kvtrace.errors import UsageError
from kvtrace.recording.config import load_config
from kvtrace.recording.fitting import Shrunk, shrunk
from kvtrace.trace.check import check
from kvtrace.trace.reader import open_trace
from tests.support.making import make

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kvtrace.recording.pipeline import Recorded
    from tests.support.command import Outcome

AT_NS = 10 * 10**9
LONG: dict[str, Any] = {"restart_at": "10s", "duration": "90s", "write_policy": "write-through"}
"""Long enough for the tiers to fill again behind the first minute."""


def recorded(path: Path, **options: Any) -> tuple[Recorded, pl.DataFrame]:
    """Record; return what was made, and its rows."""
    made = make(path, **options)
    return made, pl.read_parquet(path).with_row_index("row")


def test_rows_before_it_are_those_of_a_recording_without(tmp_path: Path) -> None:
    """The future changes nothing."""
    _, whole = recorded(tmp_path / "a.parquet")
    _, rows = recorded(tmp_path / "b.parquet", restart_at="10s")
    before = pl.col("timestamp") < AT_NS
    assert rows.filter(before).equals(whole.filter(before))
    assert not rows.equals(whole)


def test_tiers_in_memory_lose_all_that_they_hold(tmp_path: Path) -> None:
    """A delete for each object that the rows before leave in gpu and cpu, none in nvme."""
    made, rows = recorded(tmp_path / "t.parquet", restart_at="10s")
    held: dict[str, dict[int, int]] = {"gpu": {}, "cpu": {}, "nvme": {}}
    for op, tier, key, size in (
        rows.filter(pl.col("timestamp") < AT_NS).select("op", "tier", "key", "size").iter_rows()
    ):
        if op == "write":
            held[tier][key] = size
        elif op == "delete":
            del held[tier][key]
    at = rows.filter(pl.col("timestamp") == AT_NS)
    lost = at.filter((pl.col("op") == "delete") & (pl.col("phase") == "evict"))
    lost = lost.head(len(held["gpu"]) + len(held["cpu"]))
    for tier in ("gpu", "cpu"):
        assert held[tier]
        assert lost.filter(pl.col("tier") == tier)["key"].to_list() == sorted(held[tier])
    restart = made.header.statistics["restart"]
    assert restart["at_ns"] == AT_NS
    assert restart["lost_bytes"] == {tier: sum(held[tier].values()) for tier in ("gpu", "cpu")}
    with open_trace(tmp_path / "t.parquet") as trace:
        assert check(trace).ok


def test_what_came_back_is_counted_from_the_rows(tmp_path: Path) -> None:
    """Blocks hit per tier, before, in the first minute and in all after it."""
    made, rows = recorded(tmp_path / "t.parquet", **LONG)
    restart = made.header.statistics["restart"]
    minute = AT_NS + 60 * 10**9
    time = pl.col("timestamp")
    periods = {
        "before": time < AT_NS,
        "first_minute": (time >= AT_NS) & (time < minute),
        "after": time >= AT_NS,
    }
    for name, period in periods.items():
        counted = restart[name]
        hits = rows.filter(period & (pl.col("op") == "read") & (pl.col("phase") == "decode"))
        assert counted["requests"] == begun(rows, period)
        for tier, ratio in counted["hit_ratio"].items():
            assert ratio * counted["blocks"] == pytest.approx((hits["tier"] == tier).sum())
    assert restart["first_minute"]["hit_ratio"]["nvme"] > 0
    assert restart["first_minute"]["requests"] < restart["after"]["requests"]


def begun(rows: pl.DataFrame, period: pl.Expr) -> int:
    """Return how many requests have their first row in a period; deletes are another's."""
    own = rows.filter(pl.col("op") != "delete")
    return own.group_by("request").agg(pl.col("timestamp").min()).filter(period).height


def test_requests_in_flight_begin_again(tmp_path: Path) -> None:
    """As new ones, at once; what they were before has no further row."""
    made, rows = recorded(tmp_path / "t.parquet", restart_at="10s", source__users=20)
    again = made.header.statistics["restart"]["requests_begun_again"]
    served = rows.filter(pl.col("op") != "delete")
    before = set(served.filter(pl.col("timestamp") < AT_NS)["request"])
    after = served.filter(pl.col("timestamp") >= AT_NS)
    assert again > 0
    assert not before & set(after["request"])
    at_once = after.filter(pl.col("timestamp") == AT_NS)["request"].n_unique()
    assert at_once == again


def test_a_warm_up_comes_before(tmp_path: Path) -> None:
    """The time counts from where the trace begins."""
    made, rows = recorded(tmp_path / "t.parquet", restart_at="5s", warmup="5s")
    restart = made.header.statistics["restart"]
    assert restart["at_ns"] == 5 * 10**9
    counted = restart["before"]["requests"] + restart["after"]["requests"]
    assert counted == made.header.statistics["requests"]
    lost = rows.filter((pl.col("timestamp") == 5 * 10**9) & (pl.col("op") == "delete"))
    assert set(lost["tier"]) >= {"gpu", "cpu"}


def test_nodes_restart_together(tmp_path: Path) -> None:
    """What they lose adds up."""
    nodes = {"source__users": None, "source__rate": 4.0, "restart_at": "10s"}
    both = make(tmp_path / "t.parquet", nodes=2, **nodes).header.statistics["restart"]
    assert both["lost_bytes"]["cpu"] > (128 << 20)  # of one node no more than its capacity
    assert both["before"]["requests"] + both["after"]["requests"] > 0


def test_a_smaller_node_restarts_as_early_in_its_time() -> None:
    """A tenth of the time: a tenth of the way."""
    config = load_config(None, {"duration": "100s", "restart_at": "40s"})
    assert shrunk(config, Shrunk(time=0.1, layers=12, all_layers=12)).restart_at == 4 * 10**9


REFUSED = {
    "nothing in memory": (
        {"tiers__gpu__capacity": 0, "tiers__cpu__capacity": 0},
        "empties tiers gpu and cpu, and there is neither",
    ),
    "behind the end": ({"restart_at": "20s"}, "restart_at is behind the end"),
    "no request so late": (
        {"duration": None, "requests": 2, "restart_at": "1h"},
        "the requests end before the restart",
    ),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_one_that_means_nothing_is_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    """And nothing is written."""
    with pytest.raises(UsageError, match=message):
        make(tmp_path / "t.parquet", **{"restart_at": "10s"} | options)
    assert not list(tmp_path.iterdir())


def test_the_summary_says_what_came_back(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    """Lost bytes, requests begun again, and hit ratios of three periods."""
    outcome = cli(
        "record", tmp_path / "t.parquet", "--model", "tiny-1b", "--duration", "20s",
        "--restart-at", "10s", "--gpu-mem", "64MiB", "--cpu-mem", "128MiB",
    )  # fmt: skip
    assert outcome.code == 0
    text = " ".join(outcome.out.split())
    assert "restart at 10 s: " in text
    assert "requests begun again" in text
    for period in ("before", "in the next minute", "in all after it"):
        assert f"hit ratio {period}: gpu " in text
