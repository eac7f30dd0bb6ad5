"""Operation logs against a real S3 server: what s3dlio logs comes in, what we export runs."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from kvtrace.formats.common import exporting as exporters
from kvtrace.formats.common import importing as importers
from kvtrace.formats.common.exporting import ExportOptions
from kvtrace.formats.warp.oplog_export import resident_path
from kvtrace.trace.check import check
from kvtrace.trace.header import Header
from kvtrace.trace.reader import open_trace
from kvtrace.trace.schema import Op, Tier
from kvtrace.trace.writer import TraceWriter
from tests.support.making import make
from tests.support.s3server import ACCESS, SECRET, client, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from minio import Minio

BUCKET = "trace"
CLIENT = """
import sys, s3dlio
s3dlio.configure_s3(endpoint_url=f"http://{sys.argv[1]}", region="us-east-1")
s3dlio.init_op_log(sys.argv[2])
for i in range(5):
    s3dlio.put_bytes(f"s3://trace/a/{i}", bytes(1000 + i))
s3dlio.get("s3://trace/a/0")
s3dlio.get_range("s3://trace/a/1", 10, 100)
s3dlio.stat("s3://trace/a/1")
s3dlio.list("s3://trace/a/", recursive=True)
try:
    s3dlio.get("s3://trace/a/none")
except RuntimeError:
    pass
s3dlio.put_many([(f"s3://trace/b/{i}", bytes(10)) for i in range(3)])
s3dlio.delete("s3://trace/a/2")
s3dlio.delete("s3://trace/b/", recursive=True)
s3dlio.finalize_op_log()
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("s3")
    (folder / BUCKET).mkdir()
    with serving(folder) as address:
        yield address


def s3dlio_log(server: str, path: Path) -> None:
    """Let s3dlio do its ops in a process of its own: it keeps one log per process."""
    environment = os.environ | {"AWS_ACCESS_KEY_ID": ACCESS, "AWS_SECRET_ACCESS_KEY": SECRET}
    command = [sys.executable, "-c", CLIENT, server, str(path)]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60)


@pytest.mark.slow
def test_the_server_wants_its_keys(server: str) -> None:
    """The round trips run with authentication: a wrong secret is refused."""
    from minio.error import InvalidResponseError  # half a second, for each worker of xdist

    assert client(server).bucket_exists(BUCKET)
    with pytest.raises(InvalidResponseError, match="SignatureDoesNotMatch"):
        list(client(server, "a-wrong-secret").list_objects(BUCKET))


@pytest.mark.slow
def test_what_s3dlio_logs_comes_in(server: str, tmp_path: Path) -> None:
    """Every op on an object is there with its outcome, and ends where the bucket does."""
    log, out = tmp_path / "ops.tsv.zst", tmp_path / "t.parquet"
    s3dlio_log(server, log)
    made = importers.convert([log], out)
    rows = pl.read_parquet(out).cast({"op": pl.String})
    counts = dict(rows["op"].value_counts().iter_rows())
    assert counts == {"write": 8, "read": 2, "lookup": 2, "delete": 4}
    assert rows.filter(op="write")["size"].sum() == 5 * 1000 + 10 + 3 * 10
    assert rows.filter(op="read")["size"].to_list() == [1000, 100]
    assert rows.filter(op="delete")["size"].to_list() == [1002, 10, 10, 10]
    assert rows["error"].to_list().count(2) == 1
    assert (rows["complete"] > rows["submit"]).all()
    assert rows["timestamp"].is_sorted()
    assert "2 ops that aren't of one object (LIST and others) left out" in made.notes
    with open_trace(out) as trace:
        assert check(trace).ok
    names = dict(pl.read_parquet(tmp_path / "t.keys.parquet").iter_rows())
    assert {names[key] for key in live_keys(rows)} == {
        f"{BUCKET}/{found.object_name}"
        for found in client(server).list_objects(BUCKET, prefix="a/", recursive=True)
    }


def live_keys(rows: pl.DataFrame) -> set[int]:
    moved = rows.filter(pl.col("op").is_in(["write", "delete"]))
    last = moved.unique("key", keep="last", maintain_order=True)
    return set(last.filter(op="write")["key"])


def execute(log: Path, minio: Minio, bucket: str) -> dict[str, int]:
    """Do a log's ops one after the other, as warp-replay would; return how many of each."""
    rows = pl.read_csv(log, separator="\t")
    done: dict[str, int] = {}
    for op, name, size in rows.select("op", "file", "bytes").iter_rows():
        if op == "PUT":
            minio.put_object(bucket, name, io.BytesIO(bytes(size)), size)
        elif op == "GET":
            response = minio.get_object(bucket, name)
            assert len(response.read()) == size
            response.close()
            response.release_conn()
        elif op == "DELETE":
            minio.stat_object(bucket, name)
            minio.remove_object(bucket, name)
        else:
            minio.stat_object(bucket, name)
        done[op] = done.get(op, 0) + 1
    return done


def live_set(trace_path: Path, tier: Tier) -> dict[str, int]:
    """Return name and bytes of each object that is there when the trace is over."""
    with open_trace(trace_path) as trace:
        live = {int(key): int(size) for of, key, size in trace.resident() if of == tier}
        for columns in trace.batches(["op", "tier", "key", "size"]):
            for op, of, key, size in zip(*(columns[n].tolist() for n in columns), strict=True):
                if of == tier and op == Op.WRITE:
                    live[key] = size
                elif of == tier and op == Op.DELETE:
                    del live[key]
    return {f"{tier.label}/{key:016x}": size for key, size in live.items()}


def small_objects(path: Path, out: Path) -> None:
    """Write a trace whose objects are a thousandth as long."""
    with open_trace(path) as trace:
        resident = trace.resident().copy()
        resident["size"] //= 1024
        with TraceWriter(out, Header(), trace.columns, resident=resident) as writer:
            for columns in trace.batches(nulls=True):
                writer.append(columns | {"size": columns["size"] // 1024})


SMALL_TIERS = {"tiers__gpu__capacity": "8MiB", "tiers__cpu__capacity": "8MiB"}
COLD = {"duration": "5s", "tiers__nvme__capacity": "512MiB", "source__users": 3}
WARM = {"duration": "4s", "tiers__nvme__capacity": "384MiB", "source__users": 2, "warmup": "6s"}


@pytest.mark.slow
@pytest.mark.parametrize("options", [COLD, WARM], ids=["cold", "warm"])
def test_what_we_export_runs(server: str, tmp_path: Path, options: dict[str, Any]) -> None:
    """A client that does the log op for op leaves the objects that the trace leaves."""
    path, log = tmp_path / "t.parquet", tmp_path / "ops.csv.zst"
    make(tmp_path / "long.parquet", **SMALL_TIERS, **options)
    small_objects(tmp_path / "long.parquet", path)
    with open_trace(path) as trace:
        made = exporters.export(trace, log, "warp", ExportOptions(tiers=(Tier.NVME,)))
        expected = trace.lazy().filter(pl.col("tier").cast(pl.String) == "nvme").collect()
    minio, bucket = client(server), f"run-{len(options)}"
    minio.make_bucket(bucket)
    if resident_path(log).exists():
        execute(resident_path(log), minio, bucket)
    assert resident_path(log).exists() == ("warmup" in options)
    done = execute(log, minio, bucket)
    assert sum(done.values()) == made.rows == len(expected)
    assert done.keys() >= {"PUT", "GET", "DELETE"}
    there = {o.object_name: o.size for o in minio.list_objects(bucket, recursive=True)}
    assert there == live_set(path, Tier.NVME)
    assert there
