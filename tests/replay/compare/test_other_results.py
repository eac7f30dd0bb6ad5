"""Results of other tools in a comparison: what is taken of each, in our units, and what isn't."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest
import zstandard

from kvtrace.units import MS_NS
from replay.compare import tools
from replay.compare.document import ComparisonDocument
from replay.compare.setup import Setup
from tests.support import synthetic

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.command import Outcome

GIB = 1 << 30

FIO = {
    "fio version": "fio-3.33",
    "jobs": [
        {
            "total_err": 0,
            "read": {"bw_bytes": 2_000_000_000, "iops": 15_000.5, "lat_ns": {}, "clat_ns":
                     {"percentile": {"50.000000": 80_000, "99.000000": 900_000}}},
            "write": {"bw_bytes": 0, "iops": 0, "lat_ns": {}, "clat_ns": {}},
        }
    ],
}  # fmt: skip
MLPERF = {
    "requests_completed": 549,
    "summary": {
        "elapsed_time": 10.0,
        "cache_stats": {
            "total_read_bytes": 90 * GIB, "total_write_bytes": 10 * GIB,
            "read_iops": 5000, "write_iops": 500,
            "tier_storage_kv_bytes_read_gb": 60.0, "tier_storage_kv_bytes_written_gb": 5.0,
            "tier_cpu_kv_bytes_read_gb": 30.0, "tier_cpu_kv_bytes_written_gb": 5.0,
            "storage_read_p50_ms": 59.5, "storage_read_p95_ms": 358.0,
            "storage_read_p99_ms": 862.5, "storage_read_p999_ms": 900.0,
            "storage_read_p9999_ms": 950.0, "storage_write_p50_ms": 53.5,
            "storage_read_device_p50_ms": 35.0, "cpu_write_p99_ms": 0.25,
        },
    },
}  # fmt: skip
MLPERF_OLD = {
    "summary": {
        "elapsed_time": 10.0,
        "cache_stats": {
            "total_read_bytes": 90 * GIB, "total_write_bytes": 10 * GIB,
            "read_iops": 5000, "write_iops": 500, "nvme_read_p50_ms": 59.5,
            "nvme_read_device_p50_ms": 36.0, "gpu_read_p50_ms": 4.0,
        },
    },
}  # fmt: skip
MANAGER = "lmcache.v1.distributed.storage_manager.StorageManager"
CALL = {"mean_ms": 1.0, "p50_ms": 0.5, "p90_ms": 2.0, "p99_ms": 3.0, "min_ms": 0.1, "max_ms": 9.0}
LMCACHE_REPLAY = {
    "duration_s": 12.5,
    "ops": {
        f"{MANAGER}.finish_write": {"count": 10, "errors": 2, **CALL},
        f"{MANAGER}.read_prefetched_results.__enter__": {"count": 4, "errors": 0, **CALL},
        f"{MANAGER}.abort_write": {"count": 0, "errors": 1, **dict.fromkeys(CALL, 0.0)},
    },
}


def l2_op(name: str, **more: Any) -> dict[str, Any]:
    """One kind of op of LMCache's benchmark of its second level."""
    return {
        "operation": name, "rounds": 3, "keys_per_round": 32, "total_keys": 96,
        "total_success": 96, "duration_avg_ms": 4.0, "duration_p50_ms": 3.5,
        "duration_p99_ms": 6.0, "throughput_avg_mbps": 2000.0, **more,
    }  # fmt: skip


LMCACHE_L2 = {
    "title": "L2 Adapter Benchmark Result",
    "metrics": {
        "config": {"num_keys": 32, "in_flight": 1, "keys_per_round": 32, "data_size_kb": 256},
        "op_0": l2_op("Store", total_success=95),
        "op_1": l2_op("Lookup", total_success=0),
        "op_2": l2_op("Load", duration_avg_ms=2.0),
    },
}
LMCACHE_L2_SINGLE = {
    "title": "L2 Adapter Benchmark Result",
    "metrics": {
        "config": {"data_size_kb": 1024},
        "op_0": l2_op("Load", keys_per_round=1, duration_avg_ms=float("inf"),
                      duration_p99_ms=float("inf")),
    },
}  # fmt: skip
REQUESTS = {"dur_median_millis": 8.5, "dur_90_millis": 12.0, "dur_99_millis": 30.25,
            "requests": 400, "obj_size": 4096, "merged_entries": 1}  # fmt: skip


def live(of: list[dict[str, Any]], *, took: int = 10_000) -> dict[str, Any]:
    """What warp has of one kind of op, with these segments of requests."""
    return {
        "total_requests": 500, "total_errors": 3,
        "throughput": {"measure_duration_millis": took, "bytes": 5e9, "ops": 400, "errors": 3},
        "requests_by_client": {"client": of},
    }  # fmt: skip


WARP = {
    "v": 2,
    "final": True,
    "total": live([], took=20_000),
    "by_op_type": {
        "GET": live([{"single_sized_requests": REQUESTS},
                     {"single_sized_requests": {"skipped": True}}]),
        "PUT": live([{"single_sized_requests": REQUESTS}] * 2),
        "STAT": live([]),
    },
}  # fmt: skip
WARP_SHORT = {
    "total": live([], took=0),
    "by_op_type": {"GET": live([{"multi_sized_requests": {"requests": 9}}], took=0)},
}
WARP_OLD = {
    "type": "mixed",
    "mixed": True,
    "mixed_server_stats": {"average_bps": 7e8, "average_ops": 90.5, "errors": 0},
    "operations": [
        {"type": "GET", "skipped": False, "errors": 2, "single_sized_requests": REQUESTS,
         "throughput": {"average_bps": 5e8, "average_ops": 50.0}},
        {"type": "PUT", "skipped": True, "errors": 9, "throughput": {}},
    ],
}  # fmt: skip
WARP_ONE = {"type": "single", "operations": [WARP_OLD["operations"][0]]}  # type: ignore[index]

CASES: dict[str, tuple[dict[str, Any], dict[str, float]]] = {
    "fio": (FIO, {
        "throughput": 2e9, "ops": 15_000.5, "failed ops": 0, "nvme read rate": 2e9,
        "nvme read P50": 80_000, "nvme read P99": 900_000,
    }),
    "mlperf": (MLPERF, {
        "throughput": 10 * GIB, "ops": 550, "nvme read rate": 6 * GIB, "nvme write rate": GIB / 2,
        "cpu read rate": 3 * GIB, "cpu write rate": GIB / 2,
        "nvme read P50": 59.5 * MS_NS, "nvme read P99": 862.5 * MS_NS,
        "nvme read P99.9": 900 * MS_NS, "nvme read P99.99": 950 * MS_NS,
        "nvme write P50": 53.5 * MS_NS, "cpu write P99": 250_000,
    }),
    "mlperf, older": (MLPERF_OLD, {
        "throughput": 10 * GIB, "ops": 550, "nvme read P50": 59.5 * MS_NS,
        "gpu read P50": 4 * MS_NS,
    }),
    "lmcache trace replay": (LMCACHE_REPLAY, {
        "failed ops": 3,
        "LMCache finish_write P50": 500_000, "LMCache finish_write P90": 2 * MS_NS,
        "LMCache finish_write P99": 3 * MS_NS,
        "LMCache read_prefetched_results.enter P50": 500_000,
        "LMCache read_prefetched_results.enter P90": 2 * MS_NS,
        "LMCache read_prefetched_results.enter P99": 3 * MS_NS,
    }),
    "lmcache bench l2": (LMCACHE_L2, {
        "failed ops": 1, "nvme write rate": 8 * 2**20 / 0.004, "nvme read rate": 8 * 2**20 / 0.002,
    }),
    "lmcache bench l2, one by one": (LMCACHE_L2_SINGLE, {
        "failed ops": 0, "nvme read P50": 3.5 * MS_NS,
    }),
    "warp": (WARP, {
        "throughput": 2.5e8, "ops": 20, "failed ops": 3, "object read rate": 5e8,
        "object read P50": 8.5 * MS_NS, "object read P90": 12 * MS_NS,
        "object read P99": 30.25 * MS_NS, "object write rate": 5e8,
    }),
    "warp, too short": (WARP_SHORT, {"failed ops": 3}),
    "warp, older": (WARP_OLD, {
        "throughput": 7e8, "ops": 90.5, "failed ops": 2, "object read rate": 5e8,
        "object read P50": 8.5 * MS_NS, "object read P90": 12 * MS_NS,
        "object read P99": 30.25 * MS_NS,
    }),
    "warp, older, one kind": (WARP_ONE, {
        "throughput": 5e8, "ops": 50, "failed ops": 2, "object read rate": 5e8,
        "object read P50": 8.5 * MS_NS, "object read P90": 12 * MS_NS,
        "object read P99": 30.25 * MS_NS,
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_figures_of_theirs_in_our_units(name: str, tmp_path: Path) -> None:
    """Exactly those that can be compared: no percentile is made up, no count is a rate."""
    content, expected = CASES[name]
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps(content))
    theirs = tools.load(path)
    assert theirs is not None
    assert {figure.name: figure.value for figure in theirs.figures} == pytest.approx(expected)
    units = {figure.name: figure.unit for figure in theirs.figures}
    for title, unit in units.items():
        assert unit == ("ns" if " P" in title else "count" if "failed" in title else
                        "per s" if title == "ops" else "bytes/s")  # fmt: skip
    assert theirs.caution


def test_every_kind_has_a_case(tmp_path: Path) -> None:
    """A file in the folder of kinds adds one, and each has a test."""
    path, cautions = tmp_path / "theirs.json", set()
    for content, _ in CASES.values():
        path.write_text(json.dumps(content))
        theirs = tools.load(path)
        assert theirs is not None
        cautions.add(theirs.caution)
    assert len(cautions) == len(tools.forms()) >= 5


def test_compressed_results_are_read(tmp_path: Path) -> None:
    """What warp leaves of a run is compressed."""
    path = tmp_path / "warp-mixed.json.zst"
    path.write_bytes(zstandard.compress(json.dumps(WARP).encode()))
    theirs = tools.load(path)
    assert theirs is not None
    assert len(theirs.figures) == len(CASES["warp"][1])


def without(content: dict[str, Any], *names: str) -> dict[str, Any]:
    """The content with something left out."""
    changed = copy.deepcopy(content)
    part = changed
    for name in names[:-1]:
        part = part[name]
    del part[names[-1]]
    return changed


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({**FIO, "jobs": []}, "has no figures: accepted: fio --output-format=json; run it again"),
        ({**FIO, "jobs": [{"read": {}}]}, "lacks 'bw_bytes': accepted: fio"),
        (without(MLPERF, "summary", "cache_stats", "read_iops"), "lacks 'read_iops': accepted: ML"),
        ({"summary": {"elapsed_time": 0, "cache_stats": {}}}, "lacks an elapsed_time above 0"),
        (without(WARP, "total", "throughput"), "lacks 'throughput': accepted: warp analyze --json"),
        (without(LMCACHE_L2, "metrics", "config"), "lacks 'config': accepted: lmcache bench l2"),
        ({"duration_s": 1, "ops": {}}, "has no figures: accepted: lmcache trace replay --json"),
        ({"by_op_type": None, "total": None}, "accepted: warp analyze --json"),
        ({"some": "thing"}, "not a known result: accepted: a report by --report NAME.json"),
    ],
)
def test_broken_results_are_refused(
    cli: Callable[..., Outcome], tmp_path: Path, content: Any, message: str
) -> None:
    """Exit 3, one line: what is missing, what makes such a file."""
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps(content))
    found = cli("compare", path)
    assert found.code == 3
    assert message in found.error


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result of ops."""
    return synthetic.constant(tmp_path_factory.mktemp("ours") / "r.parquet")


def compared(found: Outcome) -> ComparisonDocument:
    """The comparison that a command has printed."""
    assert found.code == 0, found.err
    return ComparisonDocument.model_validate_json(found.out)


def test_other_tools_are_sides(ours: Path, cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """Their figures stand beside ours; what they lack stays empty; what is unfair is said once."""
    paths = []
    for name in ("fio", "mlperf", "warp"):
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps(CASES[name][0]))
    document = compared(cli("compare", ours, *paths, paths[0], "--label", "kvtrace", "--json"))
    labels = ["kvtrace", "fio", "mlperf", "warp", "fio (2)"]
    assert [side.label for side in document.sides] == labels
    assert {side.trials[0].verdict for side in document.sides} == {"UNJUDGED"}
    means = {figure.name: [None if side is None else side.mean for side in figure.sides]
             for figure in document.figures}  # fmt: skip
    assert means["throughput"][1:] == [2e9, 10 * GIB, 2.5e8, 2e9]
    assert means["nvme read P99"][1:] == [900_000, 862.5 * MS_NS, None, 900_000]
    assert means["object read P99"][1:] == [None, None, 30.25 * MS_NS, None]
    for word in ("fio's latencies", "Python threads", "over a network"):
        assert sum(word in caution for caution in document.cautions) == 1


FIO_OPTIONS: dict[str, tuple[dict[str, Any], list[dict[str, Any]], Setup]] = {
    "defaults": ({}, [{}], Setup("max", 1, 4096, "psync", "fio")),
    "shared": (
        {"ioengine": "io_uring", "iodepth": "32", "bs": "128k"}, [{}, {}],
        Setup("max", 64, 131_072, "uring", "fio"),
    ),
    "clones": (
        {"ioengine": "libaio", "iodepth": "8", "numjobs": "4", "bs": "1MiB"}, [{}],
        Setup("max", 32, 1 << 20, "libaio", "fio"),
    ),
    "sync": ({"iodepth": "32", "bs": "1m,64k"}, [{}], Setup("max", 1, None, "psync", "fio")),
    "log": (
        {"ioengine": "io_uring", "iodepth": "4"}, [{"read_iolog": "x.log"}],
        Setup("open", 4, None, "uring", "fio"),
    ),
    "log as fast as it goes": (
        {"ioengine": "io_uring", "read_iolog": "x.log", "replay_no_stall": "1"}, [{}],
        Setup("max", 1, None, "uring", "fio"),
    ),
    "rate": ({"rate_iops": "100"}, [{}], Setup("open", 1, 4096, "psync", "fio")),
    "differ": (
        {}, [{"ioengine": "libaio", "bs": "4k"}, {"ioengine": "psync", "bs": "8k"}],
        Setup("max", 2, None, None, "fio"),
    ),
    "odd": (
        {"ioengine": "libaio", "iodepth": "many", "bs": "0"}, [{}],
        Setup("max", None, None, "libaio", "fio"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FIO_OPTIONS)
def test_what_fio_says_of_its_own_settings(name: str, tmp_path: Path) -> None:
    """Mode, depth, I/O size and engine, as fio's options and defaults have them."""
    shared, jobs, expected = FIO_OPTIONS[name]
    found = copy.deepcopy(FIO) | {"global options": shared}
    found["jobs"] = [found["jobs"][0] | {"job options": options} for options in jobs]
    path = tmp_path / "fio.json"
    path.write_text(json.dumps(found))
    theirs = tools.load(path)
    assert theirs is not None
    assert theirs.setup == expected


def test_few_samples_of_fio_are_marked(tmp_path: Path) -> None:
    """1,000 I/Os have 10 beyond P99, and one beyond P99.9."""
    found = copy.deepcopy(FIO)
    found["jobs"][0]["read"]["total_ios"] = 1000
    found["jobs"][0]["read"]["clat_ns"]["percentile"]["99.900000"] = 950_000
    path = tmp_path / "fio.json"
    path.write_text(json.dumps(found))
    theirs = tools.load(path)
    assert theirs is not None
    few = {figure.name for figure in theirs.figures if figure.few_samples}
    assert few == {"nvme read P99.9"}


LOG = "idx\top\tbytes\tendpoint\tfile\terror\tstart\tfirst_byte\tend\tduration_ns\n"


def log(path: Path) -> Path:
    """A log of warp: ten GETs of 1 MiB, each of 2 ms, of which the last failed."""
    rows = [
        f"{n}\tGET\t{0 if n == 9 else 2**20}\thttp://h\tk{n}\t{'no' if n == 9 else ''}\t"
        f"2026-01-02T03:04:05.{n:03}Z\t\t2026-01-02T03:04:05.{n + 2:03}Z\t2000000\n"
        for n in range(10)
    ]
    path.write_bytes(zstandard.compress((LOG + "".join(rows)).encode()))
    return path


def test_a_log_is_imported_on_the_way(
    ours: Path, cli: Callable[..., Outcome], tmp_path: Path
) -> None:
    """What `kvtrace import` knows is a side at once; nothing stays; what was changed is said."""
    path = log(tmp_path / "warp-get.csv.zst")
    document = compared(cli("compare", ours, path, "--json"))
    assert [side.label for side in document.sides] == ["r", "warp-get"]
    means = {figure.name: figure.sides[1] for figure in document.figures}
    assert means["object read P50"] is not None
    assert means["object read P50"].mean == pytest.approx(2 * MS_NS, rel=1 / 256)
    assert means["failed ops"] is not None
    assert means["failed ops"].mean == 1
    said = "warp-get.csv.zst, imported as warp: 1 failed ops that moved nothing became look-ups"
    assert said in document.cautions
    assert not any("kept in" in caution for caution in document.cautions)
    assert set(tmp_path.iterdir()) == {path}
    by_hand = tmp_path / "by-hand.parquet"
    assert cli("import", path, by_hand).code == 0
    again = compared(cli("compare", ours, by_hand, "--json"))
    assert [figure.sides[1] and figure.sides[1].mean for figure in again.figures] == [
        figure.sides[1] and figure.sides[1].mean for figure in document.figures
    ]


def test_a_log_without_outcomes_is_refused(
    cli: Callable[..., Outcome], tmp_path: Path, small_trace: Path
) -> None:
    """Exit 3, and the command that imports it, should an option be what it lacks."""
    path = tmp_path / "t.oracleGeneral"
    assert cli("export", small_trace, path, "--to", "oracle").code == 0
    found = cli("compare", path)
    assert found.code == 3
    assert "t.oracleGeneral: not a result: it has no column submit and no column" in found.error
    assert f"kvtrace import {path} t.parquet --format oracle" in found.error


def test_what_nobody_knows_is_refused(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """Exit 3, with all that is accepted; a file that isn't there is said to be so."""
    path = tmp_path / "notes.txt"
    path.write_text("nothing\n")
    found = cli("compare", path)
    assert found.code == 3
    assert "notes.txt: not a known result or log: accepted:" in found.error
    assert "warp analyze --json" in found.error
    assert "logs of blkparse" in found.error
    for name in ("none.log", "none.json", "none.parquet"):
        gone = cli("compare", tmp_path / name)
        assert gone.code == 3
        assert f"{name}: " in gone.error
        assert "No such file" in gone.error
