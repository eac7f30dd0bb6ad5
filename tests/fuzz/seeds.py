"""Good small files of every kind that some reader takes, made by the project's own code."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import zstandard

from kvtrace.capture import events
from kvtrace.capture.events import Cleaner
from kvtrace.capture.identity import Hasher
from kvtrace.capture.spool import MAGIC as MAGIC_OF_RECORDING
from kvtrace.capture.spool import Kind, pack_json, pack_rows
from kvtrace.formats.blktrace.importer import MAGIC, RECORD
from kvtrace.trace.schema import Op
from replay.safety.marker import Marker
from tests.fuzz import command
from tests.fuzz.parquets import read
from tests.support import places, recordings, request_files
from tests.support.making import make

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TIERS_OF_EXPORTS = {
    "fio": ".log", "lmcache": ".lct", "mlperf-csv": ".csv", "mooncake": ".jsonl",
    "oracle": ".oracleGeneral", "perfetto": ".json", "sai3": ".tsv.zst", "warp": ".csv.zst",
}  # fmt: skip
"""Formats to export to, with the suffix of the output."""

_FIO_2 = "fio version 2 iolog\nf add\nf open\nf write 0 4096\nf read 0 4096\nwait 100\nf close\n"
_LAT = "".join(f"{ms}, {1000 * ms + 7}, {ms % 2}, 4096, {4096 * ms}, 0\n" for ms in range(1, 9))
_BLK = "".join(
    f"8,0 {at % 2} {at} 0.0{at:08} 697 Q {'RW'[at % 2]} {2048 * (at % 3)} + 8 [fio]\n"
    for at in range(1, 12)
)
_CACHEBENCH = "key,op,size,op_count,key_size,op_time\n" + "".join(
    f"k{at % 3},{'SET' if at < 3 else 'GET'},{100 + at},1,4,{at}\n" for at in range(9)
)
_PRESET = """\
model: llama3.1-8b
tensor_parallel: 2
source: {users: 4, templates: {chat: {context_tokens: [256, 1024], generated_tokens: [50, 200]}}}
tiers:
  gpu: {capacity: 1GiB}
  nvme: {capacity: 4GiB, eviction: s3-fifo, high_watermark: 0.9, low_watermark: 0.8}
duration: 5s
seed: 7
"""
_FIO_RESULT = {
    "fio version": "fio-3.33",
    "jobs": [{"total_err": 0,
              "read": {"bw_bytes": 2_000_000, "iops": 15.5, "lat_ns": {}, "clat_ns":
                       {"percentile": {"50.000000": 80_000, "99.000000": 900_000}}},
              "write": {"bw_bytes": 0, "iops": 0, "lat_ns": {}, "clat_ns": {}}}],
}  # fmt: skip
_MLPERF_RESULT = {
    "requests_completed": 549,
    "summary": {
        "elapsed_time": 10.0,
        "cache_stats": {
            "total_read_bytes": 90, "total_write_bytes": 10, "read_iops": 5000,
            "write_iops": 500, "tier_storage_kv_bytes_read_gb": 60.0,
            "tier_cpu_kv_bytes_written_gb": 5.0, "storage_read_p50_ms": 59.5,
            "storage_read_p99_ms": 862.5, "cpu_write_p99_ms": 0.25,
        },
    },
}  # fmt: skip
_L2_RESULT = {
    "title": "L2 Adapter Benchmark Result",
    "metrics": {
        "config": {"data_size_kb": 1024},
        "op_0": {"operation": "Store", "total_keys": 8, "total_success": 8, "keys_per_round": 1,
                 "duration_avg_ms": 2.5, "duration_p50_ms": 2.0, "duration_p99_ms": 9.0},
    },
}  # fmt: skip
_LCT_RESULT = {
    "duration_s": 1.5,
    "ops": {"a.b.C.store": {"errors": 0, "count": 3, "p50_ms": 1.0, "p90_ms": 2.0, "p99_ms": 3.0}},
}
_WARP_RESULT = {
    "total": {"throughput": {"measure_duration_millis": 1000, "bytes": 10, "ops": 5},
              "total_errors": 0},
    "by_op_type": {"GET": {
        "throughput": {"measure_duration_millis": 1000, "bytes": 10, "ops": 5},
        "requests_by_client": {"c": [{"single_sized_requests": {
            "dur_median_millis": 1.5, "dur_90_millis": 2, "dur_99_millis": 3}}]}}},
}  # fmt: skip


def _recording() -> bytes:
    """Return a recording of two files' worth of frames of each kind."""
    moment = {"mono_ns": recordings.START_NS, "wall_ns": recordings.WALL_NS, "width_ns": 1}
    gap = {"dropped_rows": 2, "until_mono_ns": recordings.START_NS, "reason": "queue full"}
    some = recordings.rows(*(recordings.write(at % 5, at, at + 2, batch=at) for at in range(12)))
    reads = (recordings.record(Op.READ, at, 20 + at, 23 + at, batch=12) for at in range(5))
    return b"".join([
        MAGIC_OF_RECORDING, pack_json(Kind.HEADER, recordings.HEAD), pack_rows(some),
        pack_json(Kind.GAP, gap), pack_json(Kind.ANCHOR, moment),
        pack_rows(recordings.rows(*reads)), _events(), recordings.end(17),
    ])  # fmt: skip


def _events() -> bytes:
    """Return a frame of KV-cache events of each kind."""
    cleaner, when = Cleaner(Hasher(b"s")), recordings.WALL_NS / 1e9
    stored = {"type": "BlockStored", "block_hashes": [1, 2], "parent_block_hash": None,
              "block_size": 64, "medium": "GPU", "group_idx": 0}  # fmt: skip
    further = stored | {"block_hashes": [3], "parent_block_hash": 2}
    removed = {"type": "BlockRemoved", "block_hashes": [1], "medium": "GPU"}
    batches = ([stored], [further, removed], [{"type": "AllBlocksCleared"}])
    return events.pack([
        cleaner.line(b"", seq, [when + seq, batch, 0], recordings.START_NS)
        for seq, batch in enumerate(batches)
    ])  # fmt: skip


def make_seeds(folder: Path) -> None:
    """Fill an empty folder with the seeds."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in _texts():
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    (folder / "c").mkdir()
    (folder / "c" / "a.kvcap").write_bytes(_recording())
    _traces(folder)
    _exports(folder)
    _results(folder)


def _texts() -> Iterator[tuple[str, str | bytes]]:
    for result, name in ((_FIO_RESULT, "fio"), (_MLPERF_RESULT, "mlperf"),
                         (_L2_RESULT, "lmcache-l2"), (_LCT_RESULT, "lmcache-replay")):  # fmt: skip
        yield f"{name}.json", json.dumps(result)
    yield "warp.json.zst", zstandard.compress(json.dumps(_WARP_RESULT).encode())
    yield "secret", b"0123456789abcdef"
    yield "v2.log", _FIO_2
    yield "a_lat.1.log", _LAT
    yield "blk.txt", _BLK
    yield "cb.csv", _CACHEBENCH
    yield "preset.yaml", _PRESET
    yield "config.yaml", json.dumps({"model": "tiny-1b", "source": {"users": 3}, "seed": 1,
                                     "tiers": {"nvme": {"capacity": "1GiB"}}})  # fmt: skip
    yield "demo.yaml", (places.ROOT / "traces/demo.yaml").read_bytes()
    yield "model.toml", (places.ROOT / "kvtrace/models/tiny-1b.toml").read_bytes()
    yield "config.json", json.dumps({
        "model_type": "llama", "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8, "hidden_size": 2048, "torch_dtype": "bfloat16", "head_dim": 64,
        "max_position_embeddings": 131072, "vocab_size": 128256})  # fmt: skip
    sources = {"mooncake": "a.jsonl", "bailian": "b.jsonl", "weka": "w.json", "sharegpt": "s.json",
               "azure": "az.csv", "burstgpt": "bg.csv", "dynamo": "dy.jsonl",
               "litellm": "li.json", "tracelab": "tl.csv",
               "kv-events": "kv.jsonl"}  # fmt: skip
    for source, name in sources.items():
        yield name, request_files.GOOD[source][1]
    import gzip

    yield "a.kvcap", _recording()
    yield "a.jsonl.gz", gzip.compress(str(request_files.GOOD["mooncake"][1]).encode())
    yield "marker.bin", Marker(7, "0" * 64, 4096, 1 << 20, 1 << 24, 0).pack()
    for cpu in (0, 1):
        yield f"x.blktrace.{cpu}", _blktrace(cpu)
    yield "el.log", "\n".join(_elbencho()) + "\n"


def _blktrace(cpu: int) -> bytes:
    """Return events of one CPU: writes, reads, a discard."""
    made = np.zeros(9, RECORD)
    made["magic"], made["sequence"] = MAGIC | 7, np.arange(1, 10)
    made["time"], made["sector"] = np.arange(9) * 1000 + cpu, np.arange(9) % 4 * 2048
    made["bytes"], made["device"], made["cpu"] = 4096, 254 << 20, cpu
    made["action"] = 1 | 1 << 20 | np.where(np.arange(9) < 4, 1 << 17, 1 << 16)
    return made.tobytes()


def _elbencho() -> Iterator[str]:
    ops = ((0, "openat", "/d/f", 0), (3, "pwrite", "7", 4096), (6, "pread", "7", 4096),
           (9, "S3PutObject", "b/o", 50))  # fmt: skip
    for ms, op, entry, length in ops:
        for done in (False, True):
            yield json.dumps(
                {"date": f"2026-03-01T10:00:00.{ms + done:03}+0100", "worker_rank": 0,
                 "op_name": op, "entry_name": entry, "offset": 0, "length": length,
                 "is_finished": done, "is_error": False}
            )  # fmt: skip


def _run(*argv: Any) -> None:
    ended = command.run(list(map(str, argv)))
    assert ended.code in (0, 5), f"{argv}: {ended.err}"


def _traces(folder: Path) -> None:
    make(folder / "whole.parquet")
    _run("slice", folder / "whole.parquet", folder / "t.parquet", "--rows", "600:680")
    _run("slice", folder / "whole.parquet", folder / "good.parquet", "--rows", "0:40")
    (folder / "d").mkdir()
    table = read(folder / "t.parquet")
    for at, part in enumerate((table.slice(0, 30), table.slice(30))):
        pq.write_table(part, folder / "d" / f"part-{at}.parquet")
    (folder / "whole.parquet").unlink()


def _exports(folder: Path) -> None:
    trace = folder / "t.parquet"
    _run("export", trace, folder / "trace.log", "--to", "fio", "--fio-version", "3.34", "--force")
    _run("export", trace, folder / "ops.csv.zst", "--to", "warp")
    _run("export", trace, folder / "a.lct", "--to", "lmcache")
    _run("export", trace, folder / "kv.csv", "--to", "mlperf-csv", "--with-deletes")
    _run("export", trace, folder / "a.oracleGeneral", "--to", "oracle")
    _run("export", trace, folder / "kv.csv.zst", "--to", "mlperf-csv")
    unpacked = zstandard.ZstdDecompressor().decompressobj()
    (folder / "ops.tsv").write_bytes(unpacked.decompress((folder / "ops.csv.zst").read_bytes()))
    packed = zstandard.compress((folder / "a.oracleGeneral").read_bytes())
    (folder / "a.oracleGeneral.zst").write_bytes(packed)


def _results(folder: Path) -> None:
    replay = ("replay", folder / "t.parquet", "--target", "null", "--mode", "max")
    _run(*replay, "--out", folder / "result.parquet", "--report", folder / "result.json")
    shutil.copy(folder / "result.json", folder / "other.json")
    parts = folder / "t.parquet.parts"
    parts.mkdir()
    shutil.copy(folder / "result.parquet", parts / "part-000000.parquet")
