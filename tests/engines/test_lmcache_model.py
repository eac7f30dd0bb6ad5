"""The simulator as a model of LMCache: the same requests, tiers and objects, captured and recorded.

LMCache alone isn't deterministic: while L1 is full it skips stores, and it evicts once a second. Of
9,821 blocks that requests brought as fast as they could, one run stored 7,302 and another 8,499. So
the driver waits for room in L1 after each request, as a GPU's computing would.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from kvtrace.trace.reader import open_trace
from tests.support import lmcache_runs, places
from tests.support.command import kvtrace

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow
TOKENS, OBJECT_BYTES, L1_GB = 8, 32768, 0.03
L1_BYTES = int(L1_GB * (1 << 30))
EVICTIONS_APART = 0.02
"""LMCache drops a fifth of L1's objects when it sees four fifths in use, the simulator bytes down
to a mark: per eviction, of some 160 objects, they are one or two apart."""


def capture(folder: Path, requests: list[list[int]]) -> dict[str, Any]:
    """Run requests through LMCache, recorded, make a trace of it and return LMCache's counts."""
    (folder / "requests").write_text("\n".join(map(json.dumps, requests)))
    adapter = {
        "type": "plugin",
        "module_path": "kvtrace.capture.lmcache",
        "class_name": "RecordingL2",
        "adapter_params": {"inner": {"type": "fs", "base_path": "l2"}, "out": "capture"},
    }
    driver = places.ROOT / "tests" / "engines" / "lmcache_driver.py"
    command = [lmcache_runs.environment("lmcache") / "python", driver, "--requests", "requests",
               "--room", 0.8, "--l1-size-gb", L1_GB, "--eviction-policy", "LRU",
               "--l2-adapter", json.dumps(adapter)]  # fmt: skip
    counts: dict[str, Any] = json.loads(lmcache_runs.run(command, folder).splitlines()[-1])
    assert kvtrace("import", folder / "capture", folder / "captured.parquet").code == 0
    return counts


def record(folder: Path, requests: list[list[int]]) -> None:
    """Record the same requests with LMCache's objects, tiers and rules."""
    lines = [
        {"timestamp": 1000 * number, "input_length": TOKENS * len(blocks), "output_length": 1,
         "hash_ids": blocks}
        for number, blocks in enumerate(requests)
    ]  # fmt: skip
    (folder / "requests.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    ended = kvtrace(
        "record", folder / "model.parquet", "--input", folder / "requests.jsonl",
        "--source", "mooncake", "--source-block-tokens", TOKENS,
        "--layout", "lmcache", "--block-tokens", TOKENS, "--layers", 1,
        "--gpu-mem", 0, "--cpu-mem", L1_BYTES, "--nvme-capacity", "unlimited",
        # LMCache stores in both tiers at once; what it loads is gone from L1 once it was read.
        "--write-policy", "write-through", "--promotion", "none",
        "--set", "tiers.cpu.high_watermark=0.8", "--set", "tiers.cpu.low_watermark=0.64",
        "--generation", "none", "--store-generated", "no",
    )  # fmt: skip
    assert ended.code == 0, ended.err


def moved(path: Path) -> dict[tuple[str, str, str], tuple[int, int]]:
    """Return ops and bytes by tier, op and phase, of ops that moved something."""
    with open_trace(path) as trace:
        rows = trace.lazy()
        if "error" in rows.collect_schema().names():
            rows = rows.filter(pl.col("error").fill_null(0) == 0)
        sums = rows.group_by("tier", "op", "phase").agg(pl.len(), pl.col("size").sum()).collect()
    return {tuple(map(str, row[:3])): (row[3], row[4]) for row in sums.rows()}  # type: ignore[misc]


def test_the_model_does_what_lmcache_did(tmp_path: Path) -> None:
    """Stores, loads and hits of each tier are equal, in ops and bytes; evictions within 2 %."""
    requests = lmcache_runs.conversations(150, seed=1, blocks=(3, 15))
    counts = capture(tmp_path, requests)
    record(tmp_path, requests)
    real, model = moved(tmp_path / "captured.parquet"), moved(tmp_path / "model.parquet")
    for tier in ("cpu", "nvme"):
        store = (tier, "write", "prefill")
        assert real[store] == model[store] == (counts["written"], counts["written"] * OBJECT_BYTES)
    assert counts["asked"] == counts["hits"] + counts["written"]
    loads = real["nvme", "read", "decode"]
    assert loads == model["nvme", "read", "decode"] == (counts["l2"], counts["l2"] * OBJECT_BYTES)
    assert loads[0] > 100
    # LMCache reads everything from L1, also what it has just loaded: those are no hits of L1.
    reads, promoted = real["cpu", "read", "decode"], real["cpu", "write", "promote"]
    assert promoted == loads
    assert reads[0] - promoted[0] == model["cpu", "read", "decode"][0] == counts["l1"]
    evicted = real["cpu", "delete", "evict"][0] - promoted[0]  # those were only passing through
    assert evicted == pytest.approx(model["cpu", "delete", "evict"][0], rel=EVICTIONS_APART)
