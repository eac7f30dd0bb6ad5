"""Vector search: sizes of indexes, reads per query against published counts, rounds, keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest

from kvtrace import sources
from kvtrace.errors import UsageError
from kvtrace.recording.config import load_config
from kvtrace.recording.parts import Recording
from kvtrace.recording.pipeline import record
from kvtrace.requests.vectors import VectorIndex, missed_ratio
from kvtrace.sources import vdb
from kvtrace.trace.check import check
from kvtrace.trace.reader import open_trace
from kvtrace.units import S_NS

if TYPE_CHECKING:
    from pathlib import Path

    from kvtrace.recording.pipeline import Recorded

GIB = 1 << 30
SIFT: dict[str, Any] = {"vectors": 100_000, "dimensions": 128, "degree": 32, "cached_nodes": 10_000}
PUBLISHED = {10: 8.8, 20: 15.9, 30: 23.3, 40: 30.8, 50: 38.4, 100: 76.6}
"""Reads per query by search list, of SIFT-100K: DiskANN's workflow page."""


def recorded(
    folder: Path, *, requests: int | None = 2000, seed: int = 0, **source: Any
) -> Recorded:
    """Return a recording of queries."""
    keys = {f"source.{key}": value for key, value in source.items()}
    options = {"source.name": "vdb", "requests": requests, "seed": seed} | keys
    return record(load_config(None, options), folder / "t.parquet", force=True)


def rows(made: Recorded) -> pl.DataFrame:
    return pl.read_parquet(made.path)


def search(made: Recorded) -> dict[str, Any]:
    found: dict[str, Any] = made.header.statistics["vector_search"]
    return found


@pytest.mark.parametrize(
    ("kind", "dimensions", "value", "degree", "node", "shared", "read"),
    [
        ("diskann", 128, "float32", 32, 644, 6, 4096),
        ("diskann", 768, "float32", 56, 3300, 1, 4096),
        ("diskann", 1536, "float32", 56, 6372, 0, 8192),
        ("diskann", 1536, "float16", 56, 3300, 1, 4096),
        ("diskann", 128, "int8", 32, 260, 15, 4096),
        ("aisaq-performance", 512, "float32", 56, 2276 + 56 * 100, 0, 8192),
        ("aisaq-scale", 512, "float32", 56, 2276, 1, 4096),
    ],
)
def test_sizes(
    kind: str, dimensions: int, value: str, degree: int, node: int, shared: int, read: int
) -> None:
    """Nodes, how many share a sector, and reads have the sizes of the published layouts."""
    index = VectorIndex(kind, 1000, dimensions, value, degree, 100)
    assert (index.node_bytes, index.nodes_per_sector, index.read_bytes) == (node, shared, read)
    sectors = -(-1000 // shared) if shared else 1000 * read // 4096
    codes = -(-1000 * 100 // 4096) if kind == "aisaq-scale" else 0
    assert index.size_bytes == 4096 * (1 + sectors + codes)


@pytest.mark.parametrize("search_list", PUBLISHED)
def test_reads_per_query(tmp_path: Path, search_list: int) -> None:
    """Queries read what DiskANN's page says of SIFT-100K, within 5 %."""
    made = recorded(tmp_path, search_list=search_list, **SIFT)
    expected = pytest.approx(PUBLISHED[search_list], rel=0.05)
    assert search(made)["reads_per_query_mean"] == expected
    table = rows(made)
    assert len(table) / table["request"].n_unique() == pytest.approx(
        search(made)["reads_per_query_mean"], rel=0.01
    )


def test_reads_without_a_cache(tmp_path: Path) -> None:
    """Of an index without cached nodes a query reads about one node per entry of its list."""
    made = recorded(tmp_path, requests=500, search_list=192)
    assert search(made)["reads_per_query_mean"] == pytest.approx(193, rel=0.01)
    assert missed_ratio(0, 100) == 1
    assert missed_ratio(100, 100) == 0


def test_rows_of_a_query(tmp_path: Path) -> None:
    """A round is a step of at most W reads, each a node's sectors inside the index."""
    made = recorded(tmp_path, requests=50, beam_width=4, vectors=1000, dimensions=1536, users=3)
    table = rows(made)
    assert table["key"].n_unique() == 1
    assert table["tier"].unique().to_list() == ["nvme"]
    assert table["op"].unique().to_list() == ["read"]
    assert table["size"].unique().to_list() == [8192]
    assert (table["offset"] % 8192 == 4096).all()
    assert table["offset"].max() + 8192 <= search(made)["index_bytes"] == 4096 + 1000 * 8192
    each = table.group_by("request", "step").agg(
        pl.len(), pl.col("timestamp").n_unique().alias("t")
    )
    assert each["len"].max() == 4
    assert each["t"].max() == 1
    steps = table.group_by("request").agg(pl.col("step").max(), pl.len())
    assert (steps["step"] == (steps["len"] + 3) // 4).all()
    assert search(made)["rounds_per_query_mean"] == pytest.approx(steps["step"].mean())
    assert made.header.resident.bytes == {"nvme": 4096 + 1000 * 8192}
    with open_trace(made.path) as trace:
        assert check(trace).ok


def test_clients_ask_one_query_after_the_other(tmp_path: Path) -> None:
    """A client's next query comes when the rounds of its last one have had their time."""
    table = rows(recorded(tmp_path, requests=9000, users=3, search_list=10, round_time="1ms"))
    assert table["timestamp"].is_sorted()
    assert table["session"].unique().sort().to_list() == [0, 1, 2]
    ends = table.group_by("session", "request").agg(
        pl.col("timestamp").min().alias("begin"), pl.col("timestamp").max().alias("end")
    ).sort("session", "request")  # fmt: skip
    same = np.diff(ends["session"].to_numpy()) == 0
    gaps = ends["begin"].to_numpy()[1:] - ends["end"].to_numpy()[:-1]
    assert set(gaps[same].tolist()) == {1_000_000}


def test_queries_at_a_rate(tmp_path: Path) -> None:
    """Queries that arrive by a process are sessions of their own, in order over all batches."""
    table = rows(recorded(tmp_path, requests=9000, rate=1000, search_list=10))
    assert table["timestamp"].is_sorted()
    assert table["session"].n_unique() == 9000
    assert table["timestamp"].max() / S_NS == pytest.approx(9, rel=0.1)


def test_duration_ends_queries(tmp_path: Path) -> None:
    """No query begins after the duration; without either there are 10,000."""
    keys = {"source.name": "vdb", "source.rate": 1000, "duration": "2s"}
    made = record(load_config(None, keys), tmp_path / "t.parquet")
    assert made.stats.requests == pytest.approx(2000, rel=0.1)
    assert rows(made).filter(pl.col("step") == 1)["timestamp"].max() < 2 * S_NS
    assert recorded(tmp_path, requests=None, search_list=1).stats.requests == 10_000


def test_build(tmp_path: Path) -> None:
    """The index is written from begin to end before the first query, and isn't there before."""
    made = recorded(tmp_path, requests=20, vectors=2000, dimensions=1536, build=True)
    table = rows(made)
    writes = table.filter(pl.col("op") == "write")
    assert writes["size"].sum() == search(made)["index_bytes"]
    assert (writes["offset"] == writes["size"].cum_sum() - writes["size"]).all()
    assert writes["request"].null_count() == len(writes) == 16
    assert writes["timestamp"].max() < table.filter(pl.col("op") == "read")["timestamp"].min()
    assert made.header.resident.objects == {}
    with open_trace(made.path) as trace:
        assert check(trace).ok


def test_codes_apart(tmp_path: Path) -> None:
    """AISAQ's scale mode reads half of the neighbours' codes in a step behind their node's."""
    made = recorded(tmp_path, requests=30, index="aisaq-scale", dimensions=512, degree=8,
                    vectors=1000, code_bytes=64)  # fmt: skip
    table = rows(made)
    nodes = table.filter(pl.col("step") % 2 == 1)
    codes = table.filter(pl.col("step") % 2 == 0)
    assert len(codes) == 4 * len(nodes)
    assert codes["offset"].min() >= 4096 * 1001 > nodes["offset"].max()
    assert search(made)["reads"] == len(table)
    assert any("half of a node's neighbours" in text for text in made.header.source.invented)


def test_pages_of_hnsw(tmp_path: Path) -> None:
    """With HNSW in a mapped file each new neighbour is a page fault, one after the other."""
    made = recorded(tmp_path, requests=5, index="hnsw-mmap", degree=8, search_list=10)
    table = rows(made)
    assert table.group_by("request", "step").len()["len"].max() == 1
    assert search(made)["reads_per_query_mean"] == pytest.approx(4 * 11.2, rel=0.06)


def test_skew_repeats_queries(tmp_path: Path) -> None:
    """By Zipf's law some queries come again and read the same nodes; without skew hardly any."""
    even = rows(recorded(tmp_path, vectors=100_000, dimensions=1536, search_list=1))
    for skew in (1.0, 1.5):
        skewed = rows(
            recorded(tmp_path, vectors=100_000, dimensions=1536, search_list=1, skew=skew)
        )
        assert skewed["offset"].n_unique() < 0.8 * even["offset"].n_unique()


def test_a_seed_gives_one_trace(tmp_path: Path) -> None:
    """One configuration and seed give one content, another seed another one."""
    hashes = [
        recorded(tmp_path, requests=50, seed=seed).header.content_sha256 for seed in (1, 1, 2)
    ]
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize("arrivals", [{"users": 3}, {"rate": 500}])
def test_parts_dont_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arrivals: dict[str, Any]
) -> None:
    """Many reads per query are made some queries at a time, and the trace is the same."""
    whole = recorded(tmp_path, requests=5000, search_list=5, **arrivals).header.content_sha256
    monkeypatch.setattr(vdb, "ROWS_PER_PART", 50)
    made, most = vdb.VectorQueries._reads, list[int]()

    def counted(*arguments: Any) -> Any:
        columns = made(*arguments)
        most.append(len(columns["timestamp"]))
        return columns

    monkeypatch.setattr(vdb.VectorQueries, "_reads", counted)
    parts = recorded(tmp_path, requests=5000, search_list=5, **arrivals).header.content_sha256
    assert parts == whole
    assert 0 < max(most) <= 50


@pytest.mark.parametrize(
    ("name", "node", "read", "size"),
    [("vdb-diskann-10m-1536", 6372, 8192, 4096 + 10**7 * 8192),
     ("vdb-aisaq-1m-512", 16_612, 20_480, 4096 + 10**6 * 20_480)],
)  # fmt: skip
def test_presets(tmp_path: Path, name: str, node: int, read: int, size: int) -> None:
    """Presets have the sizes that their names promise."""
    from kvtrace.recording.config import resolve

    config = resolve(None, {"requests": 20}, (), name).config
    made = record(config, tmp_path / "t.parquet", dry_run=True)
    found = search(made)
    assert (found["node_bytes"], found["read_bytes"], found["index_bytes"]) == (node, read, size)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "index": ({"source.index": "faiss"}, "source.index"),
    "vectors": ({"source.vectors": 0}, "source.vectors"),
    "wide": (
        {"source.beam_width": 100, "source.dimensions": 1536},
        "source.beam_width: a round of too many sectors: got 200; accepted: at most 128: 64 nodes",
    ),
    "long": (
        {"source.index": "hnsw-mmap", "source.search_list": 4096, "source.degree": 64},
        "source.search_list: a query of too many rounds: got 4096, up to 131136 rounds; accepted",
    ),
    "large": (
        {"source.vectors": 10**9},
        "source.vectors: an index of too many bytes: got 1000000000, 4096000004096 bytes; accepted",
    ),
    "large nodes": (
        {
            "source.index": "aisaq-performance",
            "source.degree": 4096,
            "source.beam_width": 1,
            "source.vectors": 100,
            "source.dimensions": 4096,
        },
        "source.degree: nodes of too many sectors: got 4096, 2057 sectors; accepted: at most 128",
    ),
    "cached": (
        {"source.cached_nodes": 99, "source.vectors": 98},
        "source.cached_nodes: more cached nodes than there are: got 99; accepted: at most",
    ),
    "hnsw": (
        {"source.index": "hnsw-mmap", "source.beam_width": 4},
        "source.beam_width: has no effect on index hnsw-mmap",
    ),
    "codes": ({"source.code_bytes": 9}, "source.code_bytes: has no effect without an index of AI"),
    "auto": ({"source.users": "auto"}, "source.users: are found for tiers only: got auto"),
    "both": ({"source.users": 2, "source.rate": 2}, "exclude each other"),
    "shape": ({"source.gamma_shape": 2.0}, "gamma_shape has no effect without arrival: gamma"),
    "model": ({"model": "tiny-1b"}, "model: has no effect on source vdb: accepted: duration"),
    "tiers": ({"tiers.nvme.capacity": "1GiB"}, "tiers: has no effect on source vdb"),
    "speed": ({"source.speed": 2.0}, "source.speed: has no effect on source vdb"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_configurations(tmp_path: Path, case: str) -> None:
    """What doesn't fit together, or has no effect, is refused by its key; nothing is written."""
    keys, message = BAD[case]
    with pytest.raises(UsageError) as caught:
        record(load_config(None, {"source.name": "vdb"} | keys), tmp_path / "t.parquet")
    assert message in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_no_input_no_csv_no_cache(tmp_path: Path) -> None:
    """The source takes no file, a CSV can't hold offsets, and nothing simulates tiers for it."""
    (tmp_path / "x").write_text("x")
    config = load_config(None, {"source.name": "vdb", "source.input": [str(tmp_path / "x")]})
    with pytest.raises(UsageError, match="source vdb: takes no input"):
        record(config, tmp_path / "t.parquet")
    with pytest.raises(UsageError, match="a CSV has no offsets"):
        record(load_config(None, {"source.name": "vdb"}), tmp_path / "t.csv")
    with pytest.raises(UsageError, match="makes reads of an index, not requests for a cache"):
        next(Recording(load_config(None, {"source.name": "vdb"})).requests())
    with pytest.raises(UsageError, match="came out empty"):
        recorded(tmp_path, vectors=10, cached_nodes=10)
    assert sources.makes_rows("vdb")
    assert not sources.makes_rows("mooncake")
    assert vdb.QUERIES_PER_BATCH == 4096
