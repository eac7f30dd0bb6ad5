"""Every figure of a result once more, by polars from the ops alone: shares no code with replay."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable

QUANTILES = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p999": 99.9, "p9999": 99.99}
MOVED = pl.col("op").cast(pl.String).is_in(["read", "write"])
DONE = pl.col("complete").is_not_null() & (pl.col("error") == 0)
SERVICE = pl.col("complete") - pl.col("submit")
RESPONSE = pl.col("complete") - pl.col("due")
LATE = pl.col("submit") - pl.col("due")


def check_percentiles(found: dict[str, Any], values: pl.Series, error_ratio: float) -> None:
    """Each is the smallest value that so many of all don't exceed, or above it by the error."""
    exact = values.sort().to_list()
    assert found["count"] == len(exact)
    if not exact:
        return
    assert found["max"] == exact[-1]
    assert found["mean"] == pytest.approx(sum(exact) / len(exact))
    few = []
    for name, percent in QUANTILES.items():
        rank = rank_of(len(exact), percent)
        value = exact[rank - 1]
        assert value <= found[name] <= value * (1 + error_ratio), name
        few += [name] if len(exact) - rank < 10 else []
    assert found["few_samples"] == few


def rank_of(count: int, percent: float) -> int:
    """Return how many of so many values the percentile covers, at least one."""
    return max(1, math.ceil(round(count * percent / 100, 6)))


def value_at(values: pl.Series, percent: float) -> int:
    """Return the smallest value that so many don't exceed."""
    return int(values.sort()[rank_of(len(values), percent) - 1])


def check_distribution(found: dict[str, Any], values: pl.Series) -> None:
    """Up to each bucket's end there are as many values as are counted."""
    exact = values.sort()
    reached = 0
    for upper, count in zip(found["upper"], found["count"], strict=True):
        reached += count
        assert int((exact <= upper).sum()) == reached
    assert reached == len(exact)


def check_result(document: dict[str, Any], ops: pl.DataFrame) -> None:
    """Compare a result with its ops, columns as in a result trace."""
    checker = _Checker(document, ops)
    checker.totals()
    for lane in document["lanes"]:
        checker.lane(lane)
    checker.groups("groups", [])
    checker.groups("groups_by_qos", ["qos"])
    checker.sizes()
    checker.fidelity()


class _Checker:
    def __init__(self, document: dict[str, Any], ops: pl.DataFrame) -> None:
        self.found, self.error = document, document["percentile_error_ratio_max"]
        words = [name for name in ("op", "tier", "phase", "qos") if name in ops.columns]
        self.ops = ops.with_columns(pl.col(words).cast(pl.String))
        self.good = self.ops.filter(MOVED & DONE)
        self.scheduled = document["lanes"][0]["response_ns"] is not None

    def totals(self) -> None:
        found, lanes = self.found, self.found["lanes"]
        assert found["ops"] == self.ops.filter(DONE).height
        assert found["bytes"] == self.good["size"].sum()
        assert found["errors"] == self.ops.filter(pl.col("error") != 0).height
        assert sum(found["errors_by_name"].values()) == found["errors"]
        assert found["window_s"] == max(lane["window_s"] for lane in lanes)
        moved = sum(lane["window_bytes"] for lane in lanes)
        assert found["throughput_bytes_per_s"] == pytest.approx(moved / found["window_s"])
        done = sum(lane["window_ops"] for lane in lanes)
        assert found["ops_per_s"] == pytest.approx(done / found["window_s"])
        tokens = found["trace"]["bytes_per_token"]
        if tokens:
            rate = found["throughput_bytes_per_s"] / tokens
            assert found["kv_tokens_per_s"] == pytest.approx(rate)
        generated = found["trace"]["generated_tokens"]
        if generated:
            own = self.good.filter(pl.col("phase").is_in(["prefill", "decode"]))
            busy_s = own.select(SERVICE.sum()).item() / 1e9
            theirs = found["storage_throughput_tokens_per_sec"]
            assert theirs == pytest.approx(generated / busy_s)
        headline = next(lane for lane in lanes if lane["tier"] == found["headline_tier"])
        for name in ("service_ns", "response_ns", "lateness_ns"):
            assert found[name] == headline[name]

    def lane(self, lane: dict[str, Any]) -> None:
        mine = self.ops.filter(pl.col("tier") == lane["tier"])
        good = mine.filter(MOVED & DONE)
        assert lane["ops"] == mine.filter(DONE).height
        assert lane["errors"] == mine.filter(pl.col("error") != 0).height
        assert lane["bytes"] == good["size"].sum()
        end_ns = good["submit"].max()
        assert lane["window_s"] == pytest.approx(end_ns / 1e9)
        inside = good.filter(pl.col("complete") <= end_ns)
        assert (lane["window_ops"], lane["window_bytes"]) == (inside.height, inside["size"].sum())
        rate = inside["size"].sum() * 1e9 / end_ns
        assert lane["throughput_bytes_per_s"] == pytest.approx(rate)
        assert lane["ops_per_s"] == pytest.approx(inside.height * 1e9 / end_ns)
        for op in ("read", "write"):
            part = inside.filter(pl.col("op") == op)
            rate = part["size"].sum() * 1e9 / end_ns
            assert lane[f"{op}_bytes_per_s"] == pytest.approx(rate)
            assert lane[f"{op}s_per_s"] == pytest.approx(part.height * 1e9 / end_ns)
        assert lane["drain_s"] == pytest.approx((good["complete"].max() - end_ns) / 1e9)
        assert lane["io_s"] == pytest.approx(good.select(SERVICE.sum()).item() / 1e9)
        self.latencies(lane, good)
        for which, values in self.distributions(good):
            check_distribution(lane[f"{which}_distribution_ns"], values)
        if self.scheduled:
            tried = mine.filter(MOVED & pl.col("submit").is_not_null())
            late = tried.select(LATE).to_series()
            check_percentiles(lane["lateness_ns"], late, self.error)
            share = (late <= 1_000_000).sum() / len(late)
            assert lane["on_schedule_ratio"] == pytest.approx(share)
        self.slices(lane, mine.filter(MOVED & pl.col("complete").is_not_null()))

    def distributions(self, good: pl.DataFrame) -> Iterable[tuple[str, pl.Series]]:
        yield "service", good.select(SERVICE).to_series()
        if self.scheduled:
            yield "response", good.select(RESPONSE).to_series()

    def latencies(self, found: dict[str, Any], good: pl.DataFrame) -> None:
        check_percentiles(found["service_ns"], good.select(SERVICE).to_series(), self.error)
        if self.scheduled:
            check_percentiles(found["response_ns"], good.select(RESPONSE).to_series(), self.error)
        else:
            assert found["response_ns"] is None

    def slices(self, lane: dict[str, Any], ended: pl.DataFrame) -> None:
        series = lane["time_slices"]
        width_ns = round(series["width_s"] * 1e9)
        count = len(series["begin_ns"])
        assert series["begin_ns"] == [index * width_ns for index in range(count)]

        def per_slice(rows: pl.DataFrame, at: str, value: pl.Expr) -> list[int]:
            summed = rows.group_by(pl.col(at) // width_ns).agg(value.alias("value"))
            by_index = dict(summed.iter_rows())
            return [by_index.get(index, 0) for index in range(count)]

        good = ended.filter(pl.col("error") == 0)
        assert series["completed"] == per_slice(ended, "complete", pl.len())
        assert series["errors"] == per_slice(
            ended.filter(pl.col("error") != 0), "complete", pl.len()
        )
        for op in ("read", "write"):
            mine = good.filter(pl.col("op") == op)
            assert series[f"{op}s"] == per_slice(mine, "complete", pl.len())
            assert sum(series[f"{op}_bytes"]) == mine["size"].sum()
            spread = spread_bytes(mine, width_ns, count)
            # rounded down at each edge, once per op
            assert series[f"{op}_bytes"] == pytest.approx(spread, abs=max(1, mine.height))
        if self.scheduled:
            assert series["due"] == per_slice(ended, "due", pl.len())
            assert series["lateness_max_ns"] == per_slice(ended, "submit", LATE.max())
        busy_ns = ended.select(SERVICE.sum()).item()
        assert sum(series["in_flight_mean"]) * width_ns == pytest.approx(busy_ns)
        in_flight = lane["in_flight"]["ops"]
        assert in_flight["mean"] == pytest.approx(busy_ns / ended["complete"].max())
        assert in_flight["mean"] == lane["in_flight_mean"]
        assert in_flight["max"] == most_in_flight(ended)
        heat = lane["heat_map"]
        assert sum(map(sum, heat["counts"])) == good.height
        by_class = [sum(row[at] for row in heat["counts"]) for at in range(len(heat["counts"][0]))]
        service = good.select(SERVICE).to_series()
        for edge, reached in zip(heat["edges_ns"][1:], _running(by_class), strict=True):
            # a class takes values of buckets that end in it: 1/32 may belong to the next one
            assert (service <= edge * 31 // 32).sum() <= reached <= (service <= edge).sum()

    def groups(self, name: str, more: list[str]) -> None:
        if not set(more) <= set(self.ops.columns):
            assert self.found[name] == []
            return
        by = ["tier", "phase", "op", *more]
        rows = self.ops.drop_nulls(more)
        expected = {tuple(keys): part for keys, part in rows.group_by(by)}
        assert {tuple(group[key] for key in by) for group in self.found[name]} == set(expected)
        for group in self.found[name]:
            self.group(group, expected[tuple(group[key] for key in by)])

    def sizes(self) -> None:
        moved = self.ops.filter(MOVED).with_columns(
            size_class=2 ** pl.col("size").log(2).floor().cast(pl.Int64)
        )
        by = ["tier", "phase", "op", "size_class"]
        expected = {tuple(keys): part for keys, part in moved.group_by(by)}
        found = self.found["groups_by_size"]
        assert len(found) == len(expected)
        for group in found:
            keys = (group["tier"], group["phase"], group["op"], group["size_class_bytes"])
            self.group(group, expected[keys])

    def group(self, group: dict[str, Any], rows: pl.DataFrame) -> None:
        assert group["ops"] == rows.filter(DONE).height
        assert group["errors"] == rows.filter(pl.col("error") != 0).height
        good = rows.filter(MOVED & DONE)
        assert group["bytes"] == good["size"].sum()
        if group["op"] in ("read", "write"):
            self.latencies(group, good)
            if group["service_distribution_ns"] is not None:
                service = good.select(SERVICE).to_series()
                check_distribution(group["service_distribution_ns"], service)
        else:
            assert group["service_ns"] is None

    def fidelity(self) -> None:
        found = self.found["fidelity"]
        for phase in found["phases"]:
            rows = self.ops.filter((pl.col("phase") == phase["phase"]) & DONE)
            assert phase["executed_ops"] == rows.height
            assert phase["executed_bytes"] == rows.filter(MOVED)["size"].sum()
        if not self.scheduled:
            assert found["submit_error_ns"] is None
            return
        errors = self.good.select(LATE.abs()).to_series()
        check_percentiles(found["submit_error_ns"], errors, self.error)
        for name in ("due", "submit"):
            gaps = self.good[name].sort().diff().drop_nulls()
            check_distribution(found[f"interarrival_{name}_ns"], gaps)
        planned = self.good["due"].max() - self.good["due"].min()
        took = self.good["submit"].max() - self.good["submit"].min()
        assert found["stretch_ratio"] == pytest.approx(took / planned)


def spread_bytes(ops: pl.DataFrame, width_ns: int, count: int) -> list[float]:
    """Return the bytes per slice of ops that move them evenly from submit to completion."""
    slices = pl.DataFrame({"begin": [index * width_ns for index in range(count)]}).lazy()
    end = pl.col("begin") + width_ns
    overlap = pl.min_horizontal("complete", end) - pl.max_horizontal("submit", "begin")
    took = pl.max_horizontal(SERVICE, 1)
    at_once = (SERVICE == 0) & (pl.col("submit") // width_ns * width_ns == pl.col("begin"))
    part = pl.when(at_once).then(1.0).otherwise(pl.max_horizontal(overlap, 0) / took)
    pairs = ops.lazy().select("submit", "complete", "size").join(slices, how="cross")
    moved = pairs.group_by("begin").agg((part * pl.col("size")).sum().alias("moved"))
    by_begin = dict(moved.collect().iter_rows())
    return [by_begin.get(index * width_ns, 0.0) for index in range(count)]


def most_in_flight(ops: pl.DataFrame) -> int:
    """Return the most ops between submit and completion at one time; those that end go first."""
    steps = [(at, 1) for at in ops["submit"].to_list()]
    steps += [(at, -1) for at in ops["complete"].to_list()]
    level = most = 0
    for _, step in sorted(steps):
        level += step
        most = max(most, level)
    return most


def _running(values: list[int]) -> list[int]:
    total, sums = 0, []
    for value in values:
        total += value
        sums.append(total)
    return sums
