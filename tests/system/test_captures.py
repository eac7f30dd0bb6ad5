"""What a recording of an engine is good for: its depth, a device's answer to it, its worth."""

from __future__ import annotations

import json
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.support import places
from tests.support.command import kvtrace

RECORDED = places.SAMPLES / "capture" / "vllm_tiering_fs.parquet"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not RECORDED.exists(), reason="the samples aren't here"),
]
DEPTH = 16


def recorded_depth() -> tuple[float, float]:
    """Return ops in flight and bytes per second on nvme, from the rows by hand."""
    table = pq.read_table(RECORDED).to_pydict()
    moves = [
        (submit, complete, size)
        for op, tier, size, submit, complete in zip(
            *(table[name] for name in ("op", "tier", "size", "submit", "complete")), strict=True
        )
        if tier == "nvme" and op in ("read", "write")
    ]
    length = max(complete for _, complete, _ in moves) - min(submit for submit, _, _ in moves)
    busy = sum(complete - submit for submit, complete, _ in moves)
    return busy / length, sum(size for _, _, size in moves) * 1e9 / length


@pytest.fixture(scope="module")
def lanes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Return the result's lane of replays in each mode, on a file."""
    folder = tmp_path_factory.mktemp("captured")
    made = {}
    for mode in ("open", "closed", "max"):
        report = folder / f"{mode}.json"
        pace = () if mode == "max" else ("--speed", "8")
        depth = ("--queue-depth", DEPTH) if mode == "max" else ()
        ended = kvtrace(
            "replay", RECORDED, "--device", folder / "kv.dat", "--size", "128MiB", "--full",
            "--tiers", "nvme", "--settle", "0s", "--min-window", "0s", "--arena", "32MiB",
            "--mode", mode, *pace,
            *depth, "--report", report, "--out", folder / f"{mode}.parquet",
        )  # fmt: skip
        assert ended.code in (0, 5), ended.err
        (made[mode],) = json.loads(report.read_text())["lanes"]
        made[mode]["printed"], made[mode]["rows"] = ended.out, folder / f"{mode}.parquet"
    return made


def test_info_tells_the_depth_that_the_engine_kept() -> None:
    document = json.loads(kvtrace("info", RECORDED, "--json").out)
    depth, rate = recorded_depth()
    recorded = document["recorded_in_flight"]["nvme"]
    assert recorded["mean"] == pytest.approx(depth, rel=1e-6)
    assert recorded["bytes_per_s"] == pytest.approx(rate, rel=1e-6)
    assert document["tiers"]["nvme"]["lookup_hit_ratio"] is not None


@pytest.mark.parametrize("mode", ["open", "closed", "max"])
def test_a_replay_moves_what_the_engine_moved_and_tells_both_depths(
    lanes: dict[str, dict[str, Any]], mode: str
) -> None:
    lane = lanes[mode]
    depth, _ = recorded_depth()
    assert lane["in_flight"]["recorded"]["mean"] == pytest.approx(depth, rel=1e-6)
    assert "engine kept 0.5 ops in flight" in " ".join(lane["printed"].split())
    rows = pq.read_table(lane["rows"], columns=["op", "error"]).to_pydict()
    assert (rows["op"].count("write"), rows["op"].count("read")) == (366, 207)
    assert not any(rows["error"])


def test_the_device_gives_more_at_more_depth(lanes: dict[str, dict[str, Any]]) -> None:
    """Its answer to the engine's own work, without the engine's pace."""
    _, rate = recorded_depth()
    assert lanes["max"]["in_flight_mean"] > recorded_depth()[0]
    assert lanes["max"]["throughput_bytes_per_s"] > rate


@pytest.mark.parametrize("tier", ["cpu", "nvme"])
def test_break_even_of_the_recording(tier: str) -> None:
    """Loads and times are the engine's own; blocks that moved up to serve a request are loads."""
    words = ("--gpu", "l4", "--model", "tiny-1b", "--tier", tier, "--json")
    answer = json.loads(kvtrace("breakeven", RECORDED, *words).out)
    table = pq.read_table(RECORDED).to_pydict()
    names = ("op", "tier", "request", "key", "size")
    first: dict[tuple[int, int], tuple[str, int]] = {}
    for op, on, request, key, size in zip(*(table[name] for name in names), strict=True):
        if op == "read":
            first.setdefault((request, key), (on, size))
    loads = [(request, size) for (request, _), (on, size) in first.items() if on == tier]
    assert answer["kind"] == "measured"
    assert answer["requests"] == len({request for request, _ in loads})
    assert answer["bytes"] == sum(size for _, size in loads)


def test_break_even_of_a_replay_of_it(lanes: dict[str, dict[str, Any]]) -> None:
    words = ("--trace", RECORDED, "--gpu", "l4", "--model", "tiny-1b", "--tier", "nvme", "--json")
    answer = json.loads(kvtrace("breakeven", lanes["open"]["rows"], *words).out)
    assert answer["kind"] == "measured"
    assert answer["requests"] > 0
