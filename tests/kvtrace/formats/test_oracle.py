"""libCacheSim's oracleGeneral: out, in, and read by libCacheSim itself."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings

from kvtrace.errors import TraceError, UsageError
from kvtrace.formats.common import exporting as exporters
from kvtrace.formats.common import importing as importers
from kvtrace.formats.common.exporting import ExportOptions
from kvtrace.formats.common.importing import ImportOptions
from kvtrace.formats.common.sidecar import map_path
from kvtrace.trace.check import check
from kvtrace.trace.reader import open_trace
from kvtrace.trace.schema import MAX_TIME_NS, Op, Phase, Tier
from tests.support.examples import examples
from tests.support.making import make, write_rows
from tests.support.random_traces import Rows, read_rows, rows

if TYPE_CHECKING:
    from pathlib import Path

RECORD = struct.Struct("<IQIq")
ROWS = [
    (0, Op.WRITE, 10, Tier.GPU, 1, Phase.PREFILL),
    (0, Op.WRITE, 10, Tier.NVME, 1, Phase.PREFILL),  # the same store: write-through
    (0, Op.LOOKUP, 0, Tier.NVME, 1, Phase.DECODE),
    (1_999_999_999, Op.WRITE, 20, Tier.GPU, 2, Phase.DECODE),
    (2_000_000_000, Op.READ, 10, Tier.GPU, 1, Phase.EVICT),
    (2_000_000_000, Op.WRITE, 10, Tier.CPU, 1, Phase.EVICT),
    (2_000_000_000, Op.DELETE, 10, Tier.GPU, 1, Phase.EVICT),
    (3_000_000_000, Op.READ, 10, Tier.CPU, 1, Phase.DECODE),
    (3_000_000_000, Op.WRITE, 10, Tier.GPU, 1, Phase.PROMOTE),
    (4_000_000_000, Op.READ, 20, Tier.GPU, 2, Phase.DECODE),
]


def export(path: Path, out: Path, **options: Any) -> exporters.Exported:
    with open_trace(path) as trace:
        return exporters.export(trace, out, "oracle", ExportOptions(**options))


def bring(path: Path, out: Path, **options: Any) -> importers.Imported:
    return importers.convert([path], out, options=ImportOptions(**options))


def records(path: Path) -> list[tuple[int, int, int, int]]:
    return list(RECORD.iter_unpack(path.read_bytes()))


def test_records_are_exact(tmp_path: Path) -> None:
    """What requests load and store is accessed, once per store, whatever the tier."""
    path = write_rows(tmp_path / "t.parquet", ROWS)
    made = export(path, tmp_path / "t.oracleGeneral")
    assert records(tmp_path / "t.oracleGeneral") == [
        (0, 1, 10, 2), (1, 2, 20, 3), (3, 1, 10, -1), (4, 2, 20, -1),
    ]  # fmt: skip
    assert (made.rows, made.dropped_rows) == (4, 6)
    found = pl.read_parquet(map_path(tmp_path / "t.oracleGeneral"))
    assert found["tier"].cast(pl.String).to_list() == ["gpu", "gpu", "cpu", "gpu"]


def test_a_tiers_accesses_are_its_reads_and_writes(tmp_path: Path) -> None:
    """With --tiers it is what arrives there: stores, demotions, promotions and loads."""
    path = write_rows(tmp_path / "t.parquet", ROWS)
    for tiers, expected in (
        ((Tier.CPU,), [(2, 1, 10, 1), (3, 1, 10, -1)]),
        ((Tier.GPU,), [(0, 1, 10, 2), (1, 2, 20, 3), (3, 1, 10, -1), (4, 2, 20, -1)]),
        ((Tier.CPU, Tier.NVME), [(0, 1, 10, 1), (2, 1, 10, 2), (3, 1, 10, -1)]),
    ):
        export(path, tmp_path / "t.oracleGeneral", tiers=tiers, force=True)
        assert records(tmp_path / "t.oracleGeneral") == expected


def accesses(trace: Rows, tier: Tier | None) -> list[tuple[int, int, int]]:
    """Return (second, key, size) of each access, naively."""
    found, stored = [], set()
    names = ("timestamp", "op", "size", "tier", "key", "phase")
    request = trace.columns.get("request", np.zeros(len(trace.columns["op"]), np.int64))
    given = zip(*(trace.columns[n].tolist() for n in names), request.tolist(), strict=True)
    for time, op, size, of, key, phase, asked in given:
        if op > Op.WRITE or (tier is not None and of != tier):
            continue
        if tier is None and op == Op.WRITE:
            if (time, key, asked or 0) in stored:
                continue
            stored.add((time, key, asked or 0))
        assert phase <= Phase.DECODE
        found.append((time // 10**9, key, size))
    return found


@pytest.mark.slow
@settings(max_examples=examples(60))
@given(trace=rows())
def test_round_trip(trace: Rows, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Every access is there with its next one, and comes back as a read in its second."""
    folder = tmp_path_factory.mktemp("oracle")
    path, out = trace.write(folder / "t.parquet"), folder / "t.oracleGeneral.zst"
    for tier in (None, Tier.NVME):
        expected = accesses(trace, tier)
        if not expected:
            with pytest.raises(UsageError, match=r"no access in this trace|no row of the tiers"):
                export(path, out, force=True, tiers=() if tier is None else (tier,))
            continue
        export(path, out, force=True, tiers=() if tier is None else (tier,))
        bring(out, folder / "back.parquet", force=True, tier=Tier.CPU)
        back = read_rows(folder / "back.parquet", ["timestamp", "key", "size", "op", "tier"])
        first_s = expected[0][0]
        expected = [(second - first_s, key, size) for second, key, size in expected]
        assert back.select(pl.col("timestamp") // 10**9, "key", "size").rows() == expected
        with open_trace(folder / "back.parquet") as opened:
            assert opened.header.epoch_ns == first_s * 10**9
        assert set(back["op"]) == {"read"}
        assert set(back["tier"]) == {"cpu"}


@given(trace=rows())
@settings(max_examples=examples(40))
def test_next_access(trace: Rows, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Each record names the next one of its object, or −1."""
    folder = tmp_path_factory.mktemp("next")
    path = trace.write(folder / "t.parquet")
    if not accesses(trace, None):
        return
    export(path, folder / "t.bin")
    found = records(folder / "t.bin")
    for at, (_, key, _, following) in enumerate(found):
        later = (i for i in range(at + 1, len(found)) if found[i][1] == key)
        assert following == next(later, -1)


@pytest.mark.parametrize("objects_at_once", [1, 4, 9, 1 << 21])
def test_many_blocks_are_linked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objects_at_once: int
) -> None:
    """Next accesses are right across the blocks in which a file is linked, and across batches.

    Also of more objects than are looked at in one go.
    """
    monkeypatch.setattr("kvtrace.formats.oracle.exporter._OBJECTS_AT_ONCE", objects_at_once)
    monkeypatch.setattr("kvtrace.formats.oracle.exporter._BLOCK_RECORDS", 7)
    keys = np.random.default_rng(3).integers(0, 9, 100)
    recorded = [
        (at, Op.WRITE if key not in keys[:at] else Op.READ, 5, Tier.GPU, int(key), Phase.DECODE)
        for at, key in enumerate(keys)
    ]
    path = write_rows(tmp_path / "t.parquet", recorded)
    export(path, tmp_path / "t.bin")
    for at, (_, key, _, following) in enumerate(records(tmp_path / "t.bin")):
        later = np.flatnonzero(keys[at + 1 :] == key)
        assert following == (at + 1 + later[0] if len(later) else -1)


@pytest.mark.slow
@pytest.mark.parametrize(("capacity_mib", "seed"), [(192, 1), (192, 2), (768, 2), (768, 3)])
def test_libcachesim_counts_our_misses(tmp_path: Path, capacity_mib: int, seed: int) -> None:
    """LRU of the same size in libCacheSim misses what the recorded tier had to store.

    Of a layout whose objects are hits by themselves: of blocks that count behind those before them
    a prompt's recomputed ones are touched without a row.
    """
    libcachesim = pytest.importorskip("libcachesim")
    path, out = tmp_path / "t.parquet", tmp_path / "t.oracleGeneral"
    tiers = {f"tiers__{name}__capacity": "0" for name in ("cpu", "nvme")}
    marks = {f"tiers__gpu__{side}_watermark": 1.0 for side in ("high", "low")}
    made = make(
        path, **tiers, **marks, tiers__gpu__capacity=f"{capacity_mib}MiB", layout="request",
        block_tokens=None, source__users=3, duration="60s", seed=seed,
    )  # fmt: skip
    exported = export(path, out)
    stored = sum(cell.ops for cell in made.header.totals.cells if cell.op == "write")
    reader = libcachesim.TraceReader(str(out), libcachesim.TraceType.ORACLE_GENERAL_TRACE)
    missed, _ = libcachesim.LRU(cache_size=capacity_mib << 20).process_trace(reader)
    assert round(missed * exported.rows) == stored
    assert 10 <= stored < exported.rows - 10


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((0, Op.WRITE, 1 << 32, Tier.GPU, 1, Phase.PREFILL), "row 0, column size: too large"),
        ((5 << 62, Op.WRITE, 1, Tier.GPU, 1, Phase.PREFILL), "row 0, column timestamp: too large"),
    ],
)
def test_what_doesnt_fit_is_refused(tmp_path: Path, row: Any, message: str) -> None:
    """4 GiB, and seconds beyond 32 bits, have no place in a record; nothing is made."""
    path = write_rows(tmp_path / "t.parquet", [(min(row[0], MAX_TIME_NS), *row[1:])])
    with pytest.raises(UsageError, match=message):
        export(path, tmp_path / "t.bin")
    assert [p.name for p in tmp_path.iterdir()] == ["t.parquet"]


def test_empty_objects_are_left_out(tmp_path: Path) -> None:
    """Files of libCacheSim's own files have objects of no bytes: they are counted and left out."""
    path = tmp_path / "t.oracleGeneral"
    path.write_bytes(
        RECORD.pack(0, 1, 5, 2) + RECORD.pack(0, 2, 0, -1) + RECORD.pack(1, 1, 5, 2**63 - 1)
    )
    made = bring(path, tmp_path / "t.parquet")
    assert made.header.totals.rows == 2
    assert "1 accesses to objects of no bytes left out" in made.notes
    with open_trace(tmp_path / "t.parquet") as trace:
        assert check(trace).ok
        assert [tuple(map(int, found)) for found in trace.resident()] == [(Tier.NVME, 1, 5)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty file"),
        (RECORD.pack(0, 1, 5, -1)[:-1], "record 0: the file ends within a record"),
        (RECORD.pack(0, 1, 5, -1) * 2 + b"x", "record 2: the file ends within a record"),
        (RECORD.pack(5, 1, 5, -1) + RECORD.pack(4, 1, 5, -1), "record 1: time not accepted: got 4"),
        (RECORD.pack(0, 1, 5, 0), "record 0: next not accepted: got 0"),
        (RECORD.pack(0, 1, 5, -7), "record 0: next not accepted: got -7"),
        (RECORD.pack(0, 1, 0, -1), "no rows"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    """Truncated files and fields that can't be are refused by the record's number."""
    path = tmp_path / "t.oracleGeneral"
    path.write_bytes(data)
    with pytest.raises(TraceError, match=message):
        importers.convert([path], tmp_path / "t.parquet", format_name="oracle")
    assert [p.name for p in tmp_path.iterdir()] == ["t.oracleGeneral"]


def test_garbage_isnt_recognised(tmp_path: Path) -> None:
    """Random bytes and text are no records, whatever their length."""
    for data in (np.random.default_rng(1).bytes(24 * 100), b"hello world, hello world" * 4):
        path = tmp_path / "x.bin"
        path.write_bytes(data)
        with pytest.raises(TraceError, match="format not recognised"):
            importers.convert([path], tmp_path / "t.parquet")
