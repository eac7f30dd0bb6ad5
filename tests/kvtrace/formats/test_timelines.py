"""Exports to Mooncake's requests and to timelines for Perfetto."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvtrace.errors import TraceError, UsageError
from kvtrace.formats.common import exporting as exporters
from kvtrace.formats.common.exporting import ExportOptions
from kvtrace.recording.config import load_config
from kvtrace.recording.pipeline import record
from kvtrace.trace.header import Header
from kvtrace.trace.reader import open_trace
from kvtrace.trace.schema import Op, Phase, Tier
from tests.support.examples import examples
from tests.support.making import make, write_rows
from tests.support.random_traces import Rows, read_rows, rows

if TYPE_CHECKING:
    from pathlib import Path

UNLIMITED = {"tiers__gpu__capacity": "unlimited"}


def export(path: Path, out: Path, to: str, **options: Any) -> exporters.Exported:
    with open_trace(path) as trace:
        return exporters.export(trace, out, to, ExportOptions(**options))


def requests(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


WHOLE = {"layout": {"block_tokens": 512, "name": "by-hand"}}


def test_mooncakes_lines_are_exact(tmp_path: Path) -> None:
    """Milliseconds, tokens of whole blocks, ids from head to tail, in order of arrival."""
    recorded = [
        (0, Op.WRITE, 8, Tier.GPU, 7, Phase.PREFILL),  # tail first
        (0, Op.WRITE, 8, Tier.GPU, 5, Phase.PREFILL),
        (0, Op.WRITE, 8, Tier.CPU, 7, Phase.PREFILL),
        (1_999_999, Op.READ, 8, Tier.GPU, 5, Phase.DECODE),  # of request 2, which goes on below
        (2_000_000, Op.READ, 8, Tier.GPU, 7, Phase.DECODE),  # request 3
        (2_000_000, Op.READ, 8, Tier.GPU, 5, Phase.DECODE),
        (3_000_000, Op.WRITE, 8, Tier.GPU, 9, Phase.PREFILL),
        (4_000_000, Op.WRITE, 8, Tier.GPU, 11, Phase.DECODE),
    ]
    more = {
        "request": np.array([1, 1, 1, 2, 3, 3, 2, 2], np.uint64),
        "step": np.array([2, 2, 2, 1, 1, 1, 2, 3], np.uint16),
    }
    path = write_rows(tmp_path / "t.parquet", recorded, Header(**WHOLE), **more)
    made = export(path, tmp_path / "t.jsonl", "mooncake")
    assert requests(tmp_path / "t.jsonl") == [
        {"timestamp": 0, "input_length": 1024, "output_length": 0, "hash_ids": [5, 7]},
        {"timestamp": 1, "input_length": 1024, "output_length": 512, "hash_ids": [5, 9]},
        {"timestamp": 2, "input_length": 1024, "output_length": 0, "hash_ids": [5, 7]},
    ]
    assert made.rows == 3


@pytest.mark.slow
@settings(max_examples=examples(8))
@given(
    seed=st.integers(0, 10**6), users=st.integers(1, 6), tokens=st.sampled_from([64, 512]),
    touch=st.sampled_from(["tail-first", "in-order"]),
)  # fmt: skip
def test_mooncake_round_trip(
    seed: int, users: int, tokens: int, touch: str, tmp_path_factory: pytest.TempPathFactory
) -> None:  # fmt: skip
    """Recorded from its own export, a trace asks for the same blocks, and as many are hits."""
    folder = tmp_path_factory.mktemp("mooncake")
    path, out, back = folder / "t.parquet", folder / "t.jsonl", folder / "back.parquet"
    options = {"block_tokens": tokens, "touch_order": touch, "source__users": users, "seed": seed}
    make(path, **options, **UNLIMITED, store_generated="no")
    export(path, out, "mooncake")
    again = {"source.name": "mooncake", "source.input": [str(out)], "block_tokens": 512}
    record(
        load_config(None, {"model": "tiny-1b", "tiers.gpu.capacity": "unlimited", **again}), back
    )
    ours, theirs = (
        read_rows(of, ["request", "block", "op", "phase", "step"]).filter(pl.col("step") <= 2)
        for of in (path, back)
    )
    prompts = ours.group_by("request").agg(pl.col("block").n_unique()).sort("request")
    whole = prompts.filter(pl.col("block") * tokens >= 512)
    found = theirs.group_by("request").agg(pl.len()).sort("request")
    assert found["len"].to_list() == (whole["block"] * tokens // 512).to_list()
    listed = [line["hash_ids"] for line in requests(out)]
    assert [len(ids) for ids in listed] == [-(-n * tokens // 512) for n in prompts["block"]]
    if tokens == 512:
        counts = [counts_of(frame) for frame in (ours, theirs)]
        assert counts[0] == counts[1]


def counts_of(frame: pl.DataFrame) -> dict[str, int]:
    return dict(frame["op"].value_counts().iter_rows())


@pytest.mark.slow
def test_a_request_in_many_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests come out whole and in order, however the trace's rows are cut."""
    make(tmp_path / "t.parquet", prefill_rate=5000, source__users=5)
    texts = []
    for count in (1 << 17, 97):
        out = tmp_path / f"{count}.jsonl"
        with open_trace(tmp_path / "t.parquet") as trace:
            batches = trace.batches
            monkeypatch.setattr(
                trace, "batches",
                lambda names=None, *, nulls=False, batches=batches, count=count: batches(
                    names, batch_rows=count, nulls=nulls
                ),
            )  # fmt: skip
            exporters.export(trace, out, "mooncake", ExportOptions())
        texts.append(out.read_text())
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("header", "more", "out", "message"),
    [
        (Header(**WHOLE), False, "t.jsonl", "has no requests"),
        (Header(), True, "t.jsonl", "its blocks make no ids of 512 tokens"),
        (
            Header(layout={"block_tokens": 100, "name": "x"}),
            True,
            "t.jsonl",
            "blocks of 100 tokens",
        ),
        (Header(**WHOLE), True, "t.txt", "unknown kind of output"),
    ],
)
def test_refusals_of_mooncake(
    tmp_path: Path, header: Header, more: bool, out: str, message: str
) -> None:
    """Without requests, or with blocks that make no ids, nothing is made."""
    steps = {"request": np.zeros(1, np.uint64), "step": np.full(1, 2, np.uint16)} if more else {}
    row = (0, Op.WRITE, 8, Tier.GPU, 7, Phase.PREFILL)
    path = write_rows(tmp_path / "t.parquet", [row], header, **steps)
    with pytest.raises((TraceError, UsageError), match=message):
        export(path, tmp_path / out, "mooncake")
    assert [p.name for p in tmp_path.iterdir()] == ["t.parquet"]


def events(path: Path) -> list[dict[str, Any]]:
    data = path.read_bytes()
    whole = json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
    found: list[dict[str, Any]] = whole["traceEvents"]
    return found


@pytest.mark.slow
@settings(max_examples=examples(40))
@given(trace=rows())
def test_a_timeline_has_all_ops(trace: Rows, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Every op stands on its tier at its time, to the nanosecond, with key, bytes and request."""
    folder = tmp_path_factory.mktemp("timeline")
    path, out = trace.write(folder / "t.parquet"), folder / "t.json.gz"
    made = export(path, out, "perfetto")
    found = events(out)
    names = {e["pid"]: e["args"]["name"] for e in found if e["name"] == "process_name"}
    ops = [e for e in found if "key" in e.get("args", {})]
    assert len(ops) == made.rows == len(trace.columns["op"])
    measured = "submit" in trace.columns
    start = trace.columns["submit" if measured else "timestamp"]
    request = trace.columns.get("request", np.ma.masked_all(len(start), np.uint64))
    for at, event in enumerate(ops):
        op, phase, tier = (trace.columns[name][at] for name in ("op", "phase", "tier"))
        assert event["name"] == f"{Op(op).label} {Phase(phase).label}"
        assert names[event["pid"]] == Tier(tier).label
        assert int(event["args"]["key"], 16) == trace.columns["key"][at]
        assert event["args"]["bytes"] == trace.columns["size"][at]
        assert event["args"]["request"] == (None if request.mask[at] else int(request[at]))
        assert round(event["ts"] * 1000) == start[at]
        assert event["ph"] == ("X" if measured else "i")
        if measured:
            assert round(event["dur"] * 1000) == trace.columns["complete"][at] - start[at]
            assert event["args"]["error"] == trace.columns["error"][at]


@pytest.mark.slow
@settings(max_examples=examples(30))
@given(trace=rows(measured=True))
def test_spans_of_a_lane_dont_overlap(
    trace: Rows, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Perfetto nests what overlaps on a thread: ops at the same time are on different ones."""
    folder = tmp_path_factory.mktemp("lanes")
    export(trace.write(folder / "t.parquet"), folder / "t.json", "perfetto")
    lanes: dict[tuple[int, int], int] = {}
    for event in events(folder / "t.json"):
        if event["ph"] == "X":
            start, lane = round(event["ts"] * 1000), (event["pid"], event["tid"])
            assert start >= lanes.get(lane, 0)
            lanes[lane] = start + round(event["dur"] * 1000)


@pytest.mark.slow
def test_requests_are_spans(tmp_path: Path, small_trace: Path) -> None:
    """A request lasts from its first op to its last; what it evicts isn't its own."""
    export(small_trace, tmp_path / "t.json", "perfetto")
    found = {e["name"]: e for e in events(tmp_path / "t.json") if e["name"].startswith("request ")}
    own = read_rows(small_trace, ["request", "timestamp", "phase", "size"])
    spans = own.filter(pl.col("phase") != "evict").group_by("request").agg(
        pl.col("timestamp").min().alias("start"), pl.col("timestamp").max().alias("end"),
        pl.len(), pl.col("size").sum(),
    )  # fmt: skip
    assert len(found) == len(spans) > 3
    for request, start, end, ops, size in spans.iter_rows():
        event = found[f"request {request}"]
        assert round(event["ts"] * 1000) == start
        assert round(event["dur"] * 1000) == end - start
        assert event["args"] == {"ops": ops, "bytes": size}


def test_refusals_of_perfetto(tmp_path: Path) -> None:
    """Only names that the UI opens, only tiers that are there."""
    path = write_rows(tmp_path / "t.parquet", [(0, Op.WRITE, 8, Tier.GPU, 7, Phase.PREFILL)])
    with pytest.raises(UsageError, match="unknown kind of output"):
        export(path, tmp_path / "t.json.zst", "perfetto")
    with pytest.raises(UsageError, match="no row of the tiers"):
        export(path, tmp_path / "t.json", "perfetto", tiers=(Tier.CPU,))
    assert [p.name for p in tmp_path.iterdir()] == ["t.parquet"]
