"""Several nodes: each a recording of its own share, merged by time, the same for all workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest

from kvtrace.errors import UsageError
from kvtrace.recording.config import load_config
from kvtrace.recording.parts import Recording
from kvtrace.trace.check import check
from kvtrace.trace.reader import open_trace
from tests.support.making import SMALL, make

if TYPE_CHECKING:
    from pathlib import Path

OPEN: dict[str, Any] = {"source__users": None, "source__rate": 2, "duration": "20s"}


def dotted(options: dict[str, Any]) -> dict[str, Any]:
    return {key.replace("__", "."): value for key, value in options.items()}


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, OPEN], ids=["closed", "open"])
def test_nodes_share_the_requests(tmp_path: Path, options: dict[str, Any]) -> None:
    """Every session is on one node, all of them are there, and each node's rows obey its tiers."""
    path = tmp_path / "t.parquet"
    made = make(path, nodes=3, **options)
    rows = pl.read_parquet(path).with_columns((pl.col("key") // (1 << 48)).alias("node"))
    assert rows["timestamp"].is_sorted()
    assert rows.group_by("session").agg(pl.col("node").n_unique())["node"].max() == 1
    assert rows["node"].n_unique() == 3
    with open_trace(path) as trace:
        assert trace.header.nodes == 3
        report = check(trace)
        assert report.ok, report.violations
        assert report.peak_bytes == made.stats.peak_bytes
    alone = make(tmp_path / "one.parquet", **options)
    # A closed loop's next request doesn't depend on what is cached: the same requests come.
    assert made.stats.requests == alone.stats.requests
    assert made.stats.prompt_tokens == alone.stats.prompt_tokens


@pytest.mark.slow
def test_a_node_is_as_if_recorded_alone(tmp_path: Path) -> None:
    """The rows of a node in the merged trace are those of its own recording, in their order."""
    path = tmp_path / "t.parquet"
    make(path, nodes=2, **OPEN)
    merged = pl.read_parquet(path).filter(pl.col("key") // (1 << 48) == 1)
    recording = Recording(load_config(None, SMALL | dotted(OPEN | {"nodes": 2})), node=1)
    from kvtrace.recording.simulation import Simulation

    parts = list(recording.batches(Simulation(recording)))
    keys = np.concatenate([part["key"] for part in parts])
    times = np.concatenate([part["timestamp"] for part in parts])
    assert (merged["key"].to_numpy() & np.uint64((1 << 48) - 1)).tolist() == keys.tolist()
    assert merged["timestamp"].to_list() == times.tolist()


@pytest.mark.slow
def test_workers_dont_show(tmp_path: Path) -> None:
    """One process or three: the same bytes, also as a directory."""
    make(tmp_path / "a.parquet", nodes=3)
    make(tmp_path / "b.parquet", nodes=3, workers=3)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    made = make(tmp_path / "parts", nodes=3, workers=2)
    with open_trace(tmp_path / "a.parquet") as single:
        assert single.header.content_sha256 == made.header.content_sha256
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.parquet", "b.parquet", "parts"]


def test_warm_nodes_declare_what_they_hold(tmp_path: Path) -> None:
    """Residents of all nodes are listed under their nodes' keys."""
    make(tmp_path / "t.parquet", nodes=2, warmup="5s")
    with open_trace(tmp_path / "t.parquet") as trace:
        assert check(trace).ok
        assert set((trace.resident()["key"] >> np.uint64(48)).tolist()) == {0, 1}


def test_a_node_without_requests_is_told(tmp_path: Path) -> None:
    """More nodes than users: one has nothing to do, and nothing is written."""
    with pytest.raises(UsageError, match=r"^node 6: the recording came out empty: got \d+ req"):
        make(tmp_path / "t.parquet", nodes=7)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="is of one node"):
        load_config(None, {"source.users": "auto", "nodes": 2})
    with pytest.raises(UsageError, match="users of source weka are of one node"):
        load_config(None, {"source.name": "weka", "source.users": 4, "nodes": 2})
