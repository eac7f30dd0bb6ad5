"""A result in the MLPerf benchmark's terms: its names, its definitions, ours beside them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from kvtrace.cli.main import main
from kvtrace.errors import TraceError
from kvtrace.trace.schema import Op, Phase, Tier
from replay import report
from replay.compare import tools
from replay.host.document import BlockGroupDocument, BlockLatencyDocument
from replay.report.mlperf.tables import metrics, parameters, tracing_rows
from replay.report.mlperf.tracing import device_latency_tracing
from replay.result import stored
from tests.support.making import make
from tests.support.synthetic import write_ops

if TYPE_CHECKING:
    from pathlib import Path

READ_BY_ITS_TOOLS = (
    "total_tokens_generated", "total_storage_io_latency", "requests_completed",
    "summary.avg_throughput_tokens_per_sec", "summary.requests_per_second",
    "summary.total_tokens", "summary.total_requests", "summary.elapsed_time",
    "summary.storage_throughput_tokens_per_sec", "summary.total_storage_io_time",
    *(f"summary.{group}_latency_ms.{name}" for group in ("end_to_end", "storage_io", "generation")
      for name in ("mean", "p50", "p95", "p99", "p999", "p9999")),
    *(f"summary.cache_stats.storage_{op}_{part}{name}_ms" for op in ("read", "write")
      for part in ("", "device_") for name in ("p50", "p95", "p99", "p999", "p9999")),
    *(f"summary.cache_stats.{name}" for name in (
        "cache_hit_rate", "read_write_ratio", "total_read_gb", "total_write_gb",
        "tier_storage_kv_bytes_written_gb", "tier_storage_kv_bytes_read_gb",
        "tier_storage_read_bandwidth_gbps", "tier_storage_write_bandwidth_gbps",
        "storage_entries", "read_iops", "write_iops", "storage_tokens_processed",
    )),
    "summary.multi_turn_stats.hit_rate",
)  # fmt: skip
"""Source: mlcommons/storage, utils/json_to_xlsx.py and the aggregation of ranks, 2026."""


def at(found: Any, path: str) -> Any:
    """Return what is there; KeyError if nothing is."""
    for name in path.split("."):
        found = found[name]
    return found


@dataclass(frozen=True)
class Replayed:
    """A recording that was replayed as the benchmark's: its report, and where the others are."""

    report: dict[str, Any]
    folder: Path


def replay_small(folder: Path, *words: object) -> Replayed:
    """Record and replay it by the commands; skips where files take no direct I/O."""
    trace, path = folder / "t.parquet", folder / "r.mlperf.json"
    make(
        trace, layout="request", block_tokens=None, duration="3s", source__users=4,
        source__templates={"chat": {"context_tokens": [64, 128], "generated_tokens": [32, 64],
                                    "think_s": [0.1, 0.3]}},
        tiers__gpu__capacity=0, tiers__cpu__capacity=0, tiers__nvme__capacity="unlimited",
        generation="none",
    )  # fmt: skip
    command = ["kvtrace", "replay", trace, "--device", folder / "kv", "--arena", "16MiB",
               "--settle", "0s", "--min-window", "0s", "--speed", "10", *words, "--report", path,
               "--report", folder / "r.json", "--out", folder / "r.parquet"]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [str(word) for word in command])
        with pytest.raises(SystemExit) as ended:
            main()
    if ended.value.code == 4:
        pytest.skip("no direct I/O where pytest keeps its files; set --basetemp")
    assert ended.value.code in (None, 0, 5)
    return Replayed(json.loads(path.read_text()), folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Replayed:
    """All of it, once for all tests."""
    return replay_small(tmp_path_factory.mktemp("mlperf"))


@pytest.mark.slow
def test_its_tools_find_all_that_they_read(whole: Replayed) -> None:
    """Every name is there as a number; hit rates are those of the recording."""
    found, folder = whole.report, whole.folder
    for path in READ_BY_ITS_TOOLS:
        assert isinstance(at(found, path), int | float), path
    assert found["kvtrace"]["executed_tiers"] == ["nvme"]
    summary, header = found["summary"], stored.load(folder / "r.json").trace.header
    counted = header["statistics"]
    assert summary["total_requests"] == counted["requests"] == found["requests_completed"]
    assert summary["total_tokens"] == counted["generated_tokens"]
    assert summary["generation_latency_ms"]["p95"] == 0
    stats = summary["cache_stats"]
    assert stats["decode_reads"] == stats["read_iops"] == stats["cache_hits"]
    assert stats["storage_entries"] == stats["prefill_writes"] == counted["unique_blocks"]
    assert stats["cache_misses"] == 0, "nothing is evicted"
    assert stats["storage_health"]["total_count"] == 4
    turns = summary["multi_turn_stats"]
    assert turns["cache_hits"] == counted["hit_blocks"]["nvme"] - counted["shared_hit_blocks"]
    assert set(summary["qos_metrics"]) == {"interactive", "responsive", "batch"}


@pytest.mark.slow
def test_what_is_left_out_is_listed(whole: Replayed) -> None:
    """No null stands for a number, and nothing is missing without being named."""
    found = whole.report
    missing = set(found["kvtrace"]["not_measured"])
    for _, path, _ in metrics({}):
        try:
            assert at(found["summary"], path) is not None
            assert f"summary.{path}" not in missing
        except KeyError:
            tier = path.removeprefix("cache_stats.tier_").split("_")[0]
            executed = tier not in ("gpu", "cpu")
            assert f"summary.{path}" in missing or not executed, path


@pytest.mark.slow
def test_a_part_of_a_trace_has_no_tokens(tmp_path: Path) -> None:
    """The recording's tokens and hits are of all of its requests; so it is computed from ops."""
    replayed = replay_small(tmp_path, "--limit", "1s")
    found, folder = replayed.report, replayed.folder
    for path in ("total_tokens_generated", "summary.total_tokens", "summary.cache_stats.cache_hits",
                 "summary.storage_throughput_tokens_per_sec", "multi_turn_cache_hits"):  # fmt: skip
        with pytest.raises(KeyError):
            at(found, path)
        assert path in found["kvtrace"]["not_measured"]
    assert found["summary"]["total_requests"] > 0
    again = stored.load(folder / "r.parquet", from_ops=True)
    assert again.storage_throughput_tokens_per_sec is None


@pytest.mark.slow
def test_misleading_figures_have_ours_beside_them_and_why(whole: Replayed) -> None:
    """Throughput, units, counts that are called IOPS, demotions, PASS: one sentence each."""
    found, folder = whole.report, whole.folder
    beside = {each["name"].removeprefix("summary."): each for each in found["kvtrace"]["beside"]}
    document = stored.load(folder / "r.json")
    throughput = beside["storage_throughput_tokens_per_sec"]
    assert throughput["ours"] == document.kv_tokens_per_s
    assert "0.9 %" in throughput["why"]
    assert "GiB/s" in beside["cache_stats.tier_storage_read_bandwidth_gbps"]["why"]
    assert "count" in beside["cache_stats.read_iops"]["why"]
    assert "demotions" in beside["cache_stats.tier_storage_kv_bytes_written_gb"]["why"]
    passed = beside["cache_stats.storage_health.overall_status"]
    assert passed["ours"] == document.verdict
    assert "without samples" in passed["why"]
    for each in beside.values():
        assert each["why"], each
        if each["theirs"] is not None:
            assert each["theirs"] == at(found, f"summary.{each['name'].removeprefix('summary.')}")


def test_shares_of_prompts_and_turns_are_counted_from_the_recording(tmp_path: Path) -> None:
    """Of 40 shared blocks 30 found; of 80 of a session's past 60; two objects each."""
    statistics = {
        "blocks": 400, "hit_blocks": {"nvme": 90}, "ideal_hit_blocks": 115, "shared_blocks": 40,
        "shared_hit_blocks": 30, "shared_ideal_hit_blocks": 35, "shared_hit_tokens": 480,
    }  # fmt: skip
    made = write_ops(
        tmp_path / "r.parquet", (Tier.NVME, Phase.DECODE, Op.READ), count=200,
        statistics=statistics, layout={"objects_per_block": 2, "stored_bytes_per_token": 1000},
    )  # fmt: skip
    path = tmp_path / "r.mlperf.json"
    report.write(stored.load(made), path)
    found = json.loads(path.read_text())["summary"]
    assert found["multi_turn_stats"] == {
        "cache_hits": 60, "cache_misses": 20, "hit_rate": 0.75
    }  # fmt: skip
    assert found["prefix_cache_stats"] == {
        "prefix_hits": 30, "prefix_misses": 10, "system_prompt_reuse": 30,
        "common_phrase_reuse": 0, "bytes_saved": 480_000,
    }  # fmt: skip
    stats = found["cache_stats"]
    hits = ("cache_hits", "system_prompt_hits", "multi_turn_hits", "user_cache_hits")
    assert [stats[name] for name in hits] == [200, 60, 120, 20]
    assert (stats["cache_misses"], stats["cache_hit_rate"]) == (50, 0.8)


def test_its_form_is_no_result_of_ours(tmp_path: Path) -> None:
    """Neither shown again nor compared: our own JSON says more, and says it rightly."""
    made = write_ops(tmp_path / "r.parquet", (Tier.NVME, Phase.DECODE, Op.READ))
    path = tmp_path / "r.mlperf.json"
    report.write(stored.load(made), path)
    for load in (stored.load, tools.load):
        with pytest.raises(TraceError, match=r"in the MLPerf benchmark's form.*NAME\.json"):
            load(path)


def _block_layer() -> BlockLatencyDocument:
    """Two sizes of reads of a device: 64 µs to 72, 64 again, 1,024 to 1,152."""
    times = {"count": 4, "mean_us": 1, "p50_us": 1, "p99_us": 1, "max_us": 1}
    reads = [
        BlockGroupDocument(device="d", op="read", size_class_bytes=size, **times,
                           bucket_us=edges, bucket_count=counts)
        for size, edges, counts in ((4096, [65.536], [3]), (8192, [65.536, 1048.576], [1, 4]))
    ]  # fmt: skip
    return BlockLatencyDocument(start_s=0, end_s=1, note="", groups=reads)


def test_the_block_layer_is_its_device_tracing(tmp_path: Path) -> None:
    """Sizes and devices are put together; a bucket is an eighth of its power of two."""
    found = device_latency_tracing(_block_layer())
    assert set(found) == {"d2c_read_us"}
    buckets = found["d2c_read_us"]["buckets"]
    assert [bucket["count"] for bucket in buckets] == [4, 4]
    assert [bucket["range_us"] for bucket in buckets] == [
        [65.536, pytest.approx(65.536 * 9 / 8)], [1048.576, pytest.approx(1048.576 * 9 / 8)]
    ]  # fmt: skip
    made = write_ops(tmp_path / "r.parquet", (Tier.NVME, Phase.DECODE, Op.READ))
    document = stored.load(made).model_copy(update={"bpf": _block_layer()})
    [row] = tracing_rows(document)
    assert row[:3] == ("D2C Read (us)", "Device hardware time", 8)
    assert row[3:6] == pytest.approx((65.536 * 9 / 8, 1048.576 * 9 / 8, 1048.576 * 9 / 8))
    assert device_latency_tracing(None) == {}


@pytest.mark.slow
def test_run_parameters_are_the_recordings(whole: Replayed) -> None:
    """As far as it has them; a tier without limit has no capacity."""
    found = dict(parameters(stored.load(whole.folder / "r.json")))
    expected = {
        "Model": "tiny-1b", "Num Users": 4, "Generation Mode": "none", "Seed": 0,
        "CPU Memory (GB)": 0.0, "Storage Capacity (GB)": None, "Trace Speedup": 10.0,
        "Multi-turn": True, "RAG Enabled": False,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
