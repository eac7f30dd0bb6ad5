"""Inputs that unfold without end, nest thousands deep or count to 2^60: one line, 2 GiB at most."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from kvtrace.errors import EXIT_TRACE, EXIT_USAGE
from tests.fuzz.values import nested
from tests.support.hostile import parquet, table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.command import Outcome

GIB, MIB = 1 << 30, 1 << 20
LIMIT_BYTES = 2 * GIB


def packed(path: Path, block: bytes, count: int, *, head: bytes = b"") -> Path:
    """Write a compressed file of `head` and `count` times `block`, as its suffix says."""
    if path.suffix == ".gz":
        with gzip.open(path, "wb", compresslevel=1) as out:
            out.write(head)
            for _ in range(count):
                out.write(block)
    else:
        with path.open("wb") as raw, zstandard.ZstdCompressor(level=1).stream_writer(raw) as out:
            out.write(head)
            for _ in range(count):
                out.write(block)
    return path


def page_bomb(path: Path) -> Path:
    """Write a trace with a page whose head says 2 GiB."""
    made = pq.ParquetWriter(path, table().schema, compression="gzip", use_dictionary=False)
    made.write_table(table(key=np.zeros(MIB, np.uint64)))
    made.close()
    data = path.read_bytes()
    big = zlib.compressobj(1, zlib.DEFLATED, 31)
    body = b"".join(big.compress(bytes(MIB)) for _ in range(32)) + big.flush()
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(4)
    begin = chunk.data_page_offset
    head = bytes.fromhex("1500") + b"\x15" + _zigzag(2 * GIB - 1) + b"\x15" + _zigzag(len(body))
    head += bytes.fromhex("2c") + b"\x15" + _zigzag(MIB) + bytes.fromhex("150015061506") + b"\0\0"
    room = chunk.total_compressed_size
    path.write_bytes(data[:begin] + (head + body)[:room].ljust(room, b"\0") + data[begin + room :])
    return path


def _zigzag(value: int) -> bytes:
    value, found = value << 1, b""
    while value > 0x7F:
        found += bytes([value & 0x7F | 0x80])
        value >>= 7
    return found + bytes([value])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("deep.json", nested(100_000)),
        ("deeper.json", nested(100_000, of_lists=False)),
        ("digits.json", '{"num_hidden_layers": ' + "9" * 5000 + "}"),
        ("layers.json", '{"torch_dtype": "bfloat16", "num_hidden_layers": 9223372036854775807}'),
        ("deep.toml", "a = " + nested(100_000)),
        ("digits.toml", "a = " + "9" * 5000),
    ],
)
def test_models(cli: Callable[..., Outcome], tmp_path: Path, name: str, text: str) -> None:
    """Deep nesting, integers that Python doesn't print, layers that no memory holds."""
    (tmp_path / name).write_text(text)
    outcome = cli("record", tmp_path / "o.parquet", "--model", tmp_path / name)
    assert outcome.code == EXIT_TRACE
    assert len(outcome.error) < 2500


@pytest.mark.parametrize(
    "text",
    [
        nested(50_000),
        "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
        + "".join(f"{b}: &{b} [*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a}]\n"
                  for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
        "a: &a [*a]",
        "source: {users: 281474976710656}",
        "seed: " + "9" * 5000,
        "a: 2023-13-45",
        "model: " + "x" * 2_000_000,
    ],
    ids=["deep", "aliases", "itself", "users", "digits", "month 13", "long"],
)  # fmt: skip
def test_configurations(cli: Callable[..., Outcome], tmp_path: Path, text: str) -> None:
    """YAML that nests, refers to itself or multiplies is refused, and so are absurd counts."""
    (tmp_path / "c.yaml").write_text(text)
    outcome = cli("record", tmp_path / "o.parquet", "--config", tmp_path / "c.yaml", "--dry-run")
    assert outcome.code == EXIT_USAGE
    assert len(outcome.error) < 2500


@pytest.mark.slow
def test_parquet_pages_are_checked_before_they_are_unpacked(
    cli: Callable[..., Outcome], tmp_path: Path
) -> None:
    """A page that says to be of 2 GiB is refused by its head."""
    path = page_bomb(tmp_path / "t.parquet")
    for command in ("check", "info", "head"):
        outcome = cli(command, path)
        assert outcome.code == EXIT_TRACE
        assert "too large a page of column key" in outcome.error


@pytest.mark.slow
def test_columns_and_metadata(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """Thousands of columns, and a header of many MB, are refused with one line."""
    made = table(2)
    wide = pa.table({**dict(zip(made.column_names, made.columns, strict=True)),
                     **{f"c{at}": pa.array([0, 0], pa.int8()) for at in range(1000)}})  # fmt: skip
    pq.write_table(wide, tmp_path / "wide.parquet")
    assert "too many columns" in cli("info", tmp_path / "wide.parquet").error
    header = json.dumps({"config": {"x": "y" * (20 * MIB)}}).encode()
    path = parquet(tmp_path / "long.parquet", header=header)
    assert "too long a header" in cli("check", path).error


LINES = {
    "kv.csv.zst": ("import", b"a" * MIB, 1024, b""),
    "ops.csv.zst": ("import --format warp", bytes(MIB), 1024, b"op\tbytes\tfile\tstart\tx\n"),
    "blk.txt.gz": ("import --format blkparse", b"8,0 " * (MIB // 4), 1024, b""),
    "lat_lat.1.log.zst": ("import --format fio-lat", b"1" * MIB, 1024, b""),
    "x.log.zst": ("import --format fio", b"a" * MIB, 1024, b"fio version 2 iolog\n"),
    "el.log.zst": ("import --format elbencho", b'{ "date": "' + b"a" * MIB, 1024, b""),
    "cb.csv.zst": ("import --format cachebench", b"a," * (MIB // 2), 1024, b"key,op,size\n"),
    "a.lct.zst": ("import --format lmcache", b"\x90" * MIB, 1024, b"\x7f\xff\xff\xff"),
    "a.oracleGeneral.zst": ("import --format oracle", bytes(MIB), 1024, b""),
    "a.jsonl.gz": ("mooncake", b"[" * MIB, 1024, b""),
    "b.jsonl.zst": ("bailian", b'{"chat_id": ' + b"1" * MIB, 1024, b""),
    "w.json.zst": ("weka", b"[]," * (MIB // 3), 1024, b"["),
    "s.json.zst": ("sharegpt", b"a" * MIB, 1024, b'[{"id": "'),
    "az.csv.zst": ("azure", b"a," * (MIB // 2), 1024, b""),
    "bg.csv.zst": ("burstgpt", b"1" * MIB, 1024, b""),
}
"""A file for each reader of packed text: who reads it, and what it unfolds to."""


@pytest.mark.slow
@pytest.mark.parametrize("name", LINES)
def test_packed_files_that_unfold(tmp_path: Path, name: str) -> None:
    """A gigabyte of one line, from some KB: one line says no, within 2 GiB of memory."""
    reader, block, count, head = LINES[name]
    path = packed(tmp_path / name, block, count, head=head)
    command = [*reader.split(), str(path), str(tmp_path / "o.parquet")]
    if not reader.startswith("import"):
        command = ["record", str(tmp_path / "o.parquet"), "--source", reader, "--input", str(path),
                   "--model", "tiny-1b"]  # fmt: skip
    ended = subprocess.run(
        [sys.executable, "-m", "tests.support.limited", *command],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    most = int(ended.stdout.strip().splitlines()[-1])
    assert ended.returncode in (EXIT_TRACE, EXIT_USAGE), ended.stderr[-2000:]
    assert ended.stderr.count("kvtrace: error:") == 1
    assert len(ended.stderr) < 4000
    assert most < LIMIT_BYTES
    assert not (tmp_path / "o.parquet").exists()
