"""Requests, health and the MLPerf benchmark's figures once more, by polars from the ops alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from tests.support.recomputed import DONE, MOVED, SERVICE, check_percentiles, value_at

if TYPE_CHECKING:
    from collections.abc import Iterable

TARGETS_MS = {"interactive": 50, "responsive": 100, "batch": 1000}
OWN = pl.col("phase").cast(pl.String).is_in(["prefill", "decode"])
TIERS = {"gpu": "gpu", "cpu": "cpu", "nvme": "storage"}
GIB = 1 << 30


def times_of_requests(ops: pl.DataFrame, *, scheduled: bool) -> pl.DataFrame:
    """A row per request none of whose ops failed: end to end, summed I/O, waiting."""
    begin = "due" if scheduled else "submit"
    own = ops.filter(MOVED & OWN & pl.col("request").is_not_null())
    bad = own.filter(~DONE.fill_null(value=False))["request"].unique().to_list()
    before = pl.col("complete").cum_max().shift(1, fill_value=0).over("request")
    return (
        own.filter(~pl.col("request").is_in(bad))
        .with_columns(before=before)
        .with_columns(
            wait=(pl.col("complete") - pl.max_horizontal(begin, "before")).clip(0)
        )
        .group_by("request")
        .agg(
            end_to_end=pl.col("complete").max() - pl.col(begin).min(),
            storage_io=SERVICE.sum(),
            waited=pl.col("wait").sum(),
            qos=pl.col("qos").cast(pl.String).first() if "qos" in ops.columns else pl.lit(None),
        )
    )  # fmt: skip


def check_requests(document: dict[str, Any], ops: pl.DataFrame) -> None:
    """Compare a result's requests with its ops."""
    error = document["percentile_error_ratio_max"]
    scheduled = document["lanes"][0]["response_ns"] is not None
    rows, found = times_of_requests(ops, scheduled=scheduled), document["requests"]
    own = ops.filter(MOVED & OWN & pl.col("request").is_not_null())
    assert found["count"] == rows.height
    assert found["failed"] == own["request"].n_unique() - rows.height
    _check_times(found, rows, error)
    assert {each["qos"] for each in found["by_qos"]} == set(rows["qos"].drop_nulls())
    for each in found["by_qos"]:
        mine = rows.filter(pl.col("qos") == each["qos"])
        _check_times(each, mine, error)
        for name in ("end_to_end", "waited"):
            level = each[f"{name}_level"]
            within = (mine[name] <= level["target_p95_ns"]).mean()
            assert level["target_p95_ns"] == TARGETS_MS[each["qos"]] * 1_000_000
            assert level["compliance_ratio"] == pytest.approx(within)
            assert level["met"] == (within >= 0.95)


def _check_times(found: dict[str, Any], rows: pl.DataFrame, error: float) -> None:
    assert found["count"] == rows.height
    for name in ("end_to_end", "storage_io", "waited"):
        check_percentiles(found[f"{name}_ns"], rows[name], error)


def per_mib(rows: pl.DataFrame) -> pl.Series:
    """Service times per MiB, ns; shorter ops as one MiB."""
    factor = (1 << 20) / pl.max_horizontal(pl.col("size"), pl.lit(1 << 20))
    return rows.select((SERVICE * factor).cast(pl.Int64)).to_series()


def check_health(document: dict[str, Any], ops: pl.DataFrame) -> None:
    """Compare the criteria that are of latencies with the ops."""
    good, error = ops.filter(MOVED & DONE), document["percentile_error_ratio_max"]
    criteria = document["storage_health"]["criteria"]
    kinds = (
        (500.0, "nvme", ["write"]),
        (200.0, "nvme", ["read"]),
        (150.0, "cpu", ["read", "write"]),
    )
    for found, (limit, tier, words) in zip(criteria, kinds, strict=False):
        mine = good.filter((pl.col("tier") == tier) & pl.col("op").is_in(words))
        own = mine.filter(OWN).select(SERVICE).to_series()
        _check_judged(found["theirs"], own, limit, error)
        _check_judged(found["ours"], per_mib(mine), limit / 200, error)


def _check_judged(found: dict[str, Any], values: pl.Series, limit: float, error: float) -> None:
    assert (found["count"], found["target"]) == (len(values), limit)
    if not len(values):
        assert (found["actual"], found["passed"]) == (None, None)
        return
    exact_ms = value_at(values, 95.0) / 1e6
    assert exact_ms <= found["actual"] <= exact_ms * (1 + error)
    assert found["passed"] == (found["actual"] < limit)


def check_mlperf(theirs: dict[str, Any], document: dict[str, Any], ops: pl.DataFrame) -> None:
    """Compare what is said in the benchmark's terms with the ops."""
    summary, error = theirs["summary"], document["percentile_error_ratio_max"]
    stats, good = summary["cache_stats"], ops.filter(MOVED & DONE)
    seconds = summary["elapsed_time"]
    assert seconds == pytest.approx(good["complete"].max() / 1e9)
    own = good.filter(OWN)
    io_s = own.select(SERVICE.sum()).item() / 1e9
    assert summary["total_storage_io_time"] == pytest.approx(io_s)
    assert theirs["total_storage_io_latency"] == summary["total_storage_io_time"]
    tokens = summary["total_tokens"]
    assert summary["storage_throughput_tokens_per_sec"] == pytest.approx(tokens / io_s)
    assert summary["avg_throughput_tokens_per_sec"] == pytest.approx(tokens / seconds)
    assert summary["total_requests"] == document["requests"]["count"]
    for op in ("read", "write"):
        mine = own.filter(pl.col("op") == op)
        assert stats[f"{op}_iops"] == mine.height
        assert stats[f"total_{op}_bytes"] == mine["size"].sum()
    for tier, op, rows in _moved(own):
        name, past = TIERS[tier], {"read": "read", "write": "written"}[op]
        gib = rows["size"].sum() / GIB
        assert stats[f"tier_{name}_kv_bytes_{past}_gb"] == pytest.approx(gib)
        assert stats[f"tier_{name}_{op}_bandwidth_gbps"] == pytest.approx(gib / seconds)
        service = rows.select(SERVICE).to_series()
        for quantile, percent in (("p50", 50.0), ("p95", 95.0), ("p9999", 99.99)):
            exact_ms = value_at(service, percent) / 1e6
            assert exact_ms <= stats[f"{name}_{op}_{quantile}_ms"] <= exact_ms * (1 + error)
    _check_beside(theirs, good, error)


def _moved(rows: pl.DataFrame) -> Iterable[tuple[str, str, pl.DataFrame]]:
    for (tier, op), part in rows.group_by("tier", "op"):
        yield str(tier), str(op), part


def _check_beside(theirs: dict[str, Any], good: pl.DataFrame, error: float) -> None:
    """All ops, demotions too, in units of what their names say; rates are of the window."""
    beside = {each["name"]: each["ours"] for each in theirs["kvtrace"]["beside"]}
    ends = dict(good.group_by("tier").agg(pl.col("submit").max()).iter_rows())
    inside = good.filter(pl.col("complete") <= pl.col("submit").max().over("tier"))
    for tier, op, rows in _moved(inside):
        prefix = f"summary.cache_stats.tier_{TIERS[tier]}_{op}_bandwidth_gbps"
        assert beside[prefix] == pytest.approx(rows["size"].sum() / ends[tier])  # bytes per ns
    for tier, op, rows in _moved(good):
        exact_ms = value_at(rows.select(SERVICE).to_series(), 95.0) / 1e6
        p95_ms = beside[f"summary.cache_stats.{TIERS[tier]}_{op}_p95_ms"]
        assert exact_ms <= p95_ms <= exact_ms * (1 + error)
    for op in ("read", "write"):
        rate = inside.filter(pl.col("op") == op).height * 1e9 / max(ends.values())
        assert beside[f"summary.cache_stats.{op}_iops"] == pytest.approx(rate)
