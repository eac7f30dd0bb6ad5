"""Bad input: one clear line, the right exit code, nothing left behind, nothing overwritten."""

from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from kvtrace.trace.schema import MAX_SIZE_BYTES, Op, Phase, Tier
from tests.support.making import write_rows

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.command import Outcome

    Cli = Callable[..., Outcome]

CSV_HEADER = "Timestamp,Operation,Object_Size_Bytes,Tier,Key,Phase\n"
CSV_ROW = "1.000000,Write,4096,Tier-0,k,Prefill\n"
USAGE, TRACE, TARGET = 2, 3, 4


def table(**changes: Any) -> pa.Table:
    """Return a valid trace of two rows with some columns changed, or left out (None)."""
    words = {
        "op": pa.array(["write", "read"]),
        "tier": pa.array(["nvme", "nvme"]),
        "phase": pa.array(["prefill", "decode"]),
    }
    columns: dict[str, pa.Array] = {
        "timestamp": pa.array([0, 5], pa.int64()),
        "size": pa.array([4096, 4096], pa.uint64()),
        "key": pa.array([1, 1], pa.uint64()),
        **{name: values.dictionary_encode() for name, values in words.items()},
    }
    columns |= changes
    return pa.table({name: values for name, values in columns.items() if values is not None})


def test_the_changed_table_is_fine_unchanged(tmp_path: Path, cli: Cli) -> None:
    """The table that the other tests break is accepted as it stands."""
    pq.write_table(table(), tmp_path / "t.parquet")
    assert cli("check", tmp_path / "t.parquet").code == 0


def words(*values: str) -> pa.Array:
    return pa.array(values).dictionary_encode()


TABLES = {
    "missing column": (table(size=None), "missing column size"),
    "wrong type": (
        table(size=pa.array([1, 2], pa.int32())),
        "wrong type of column size: got int32",
    ),
    "words as numbers": (table(op=pa.array([0, 1], pa.int8())), "wrong type of column op"),
    "unknown op": (
        table(op=words("write", "append")),
        "row 1, column op: unknown op: got 'append'",
    ),
    "time backwards": (
        table(timestamp=pa.array([9, 5], pa.int64())),
        "row 1, column timestamp: time runs backwards: got 5; accepted: at least 9",
    ),
    "negative time": (table(timestamp=pa.array([-1, 5], pa.int64())), "row 0, column timestamp"),
    "size 0 write": (
        table(size=pa.array([0, 4096], pa.uint64())),
        "row 0, column size: size out of range: got 0",
    ),
    "huge size": (
        table(size=pa.array([4096, MAX_SIZE_BYTES + 1], pa.uint64())),
        "row 1, column size: size out of range",
    ),
    "null": (table(key=pa.array([1, None], pa.uint64())), "row 1, column key: no value"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("broken", "message"), TABLES.values(), ids=TABLES)
def test_broken_trace(tmp_path: Path, cli: Cli, broken: pa.Table, message: str) -> None:
    """A broken trace is refused by every reader, with the row and what is accepted."""
    path = tmp_path / "t.parquet"
    pq.write_table(broken, path)
    for arguments in (
        ("check", path),
        ("export", path, tmp_path / "out.csv", "--to", "mlperf-csv"),
        ("replay", path, "--target", "null"),
    ):
        outcome = cli(*arguments)
        assert outcome.code == TRACE, outcome
        assert message in outcome.error
        assert str(path) in outcome.error
    assert list(tmp_path.iterdir()) == [path]


def cut_short(path: Path, small_trace: Path) -> None:
    path.write_bytes(small_trace.read_bytes()[:-100])


FILES: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "empty": (lambda path, _: path.touch(), "empty file"),
    "not Parquet": (lambda path, _: path.write_text("hello there"), "not a Parquet file"),
    "truncated": (cut_short, "truncated or damaged Parquet file"),
    "directory": (lambda path, _: path.mkdir(), "a directory without parts"),
    "absent": (lambda path, _: None, "No such file"),
}


@pytest.mark.parametrize(("spoil", "message"), FILES.values(), ids=FILES)
def test_not_a_trace(
    tmp_path: Path, cli: Cli, small_trace: Path, spoil: Callable[[Path, Path], object], message: str
) -> None:
    """What isn't a whole Parquet file is refused, saying what it is."""
    path = tmp_path / "t.parquet"
    spoil(path, small_trace)
    for command in (("info",), ("check",), ("head",), ("replay", "--target", "null")):
        outcome = cli(command[0], path, *command[1:])
        assert outcome.code == TRACE
        assert message in outcome.error


def test_damaged_in_the_middle(tmp_path: Path, cli: Cli, small_trace: Path) -> None:
    """Damage behind an intact footer is an error, never a short trace."""
    data = bytearray(small_trace.read_bytes())
    data[500:3000] = os.urandom(2500)
    path = tmp_path / "t.parquet"
    path.write_bytes(data)
    outcome = cli("check", path)
    assert outcome.code == TRACE
    assert "damaged at or after row" in outcome.error


def test_newer_format_version(tmp_path: Path, cli: Cli) -> None:
    """A trace of a format that this version doesn't know is refused."""
    path = tmp_path / "t.parquet"
    pq.write_table(table().replace_schema_metadata({"kvtrace": '{"format_version": 2}'}), path)
    outcome = cli("info", path)
    assert outcome.code == TRACE
    assert "unknown format version: got 2; accepted: 1" in outcome.error


def zst_cut_short(text: str) -> bytes:
    whole = zstandard.ZstdCompressor().compress((text + CSV_ROW * 20_000).encode())
    return whole[: len(whole) // 2]


CSVS = {
    "header only": ("t.csv", CSV_HEADER.encode(), "no rows"),
    "empty": ("t.csv", b"", "empty file"),
    "truncated zst": ("t.csv.zst", zst_cut_short(CSV_HEADER), "can't read"),
    "other columns": ("t.csv", b"Timestamp,Operation,Object_Size_Bytes\n1,2,3\n", "wrong columns"),
    "unknown format": ("t.csv", b"a,b\n1,2\n", "format not recognised"),
    "unknown op": (
        "t.csv",
        (CSV_HEADER + CSV_ROW + CSV_ROW.replace("Write", "Trim")).encode(),
        "row 3, column Operation: value not accepted: got Trim",
    ),
    "size 0": (
        "t.csv",
        (CSV_HEADER + CSV_ROW.replace("4096", "0")).encode(),
        "row 2, column Object",
    ),
    "no size": (
        "t.csv",
        (CSV_HEADER + CSV_ROW.replace("4096", "")).encode(),
        "row 2, column Object",
    ),
    "no number": ("t.csv", (CSV_HEADER + CSV_ROW.replace("4096", "x")).encode(), "not such a CSV"),
    "no time": ("t.csv", (CSV_HEADER + CSV_ROW.replace("1.000000", "")).encode(), "row 2, column"),
    "fields missing": ("t.csv", (CSV_HEADER + CSV_ROW + "1.0,Write\n").encode(), "not such a CSV"),
}


@pytest.mark.parametrize(("name", "data", "message"), CSVS.values(), ids=CSVS)
def test_bad_csv(tmp_path: Path, cli: Cli, name: str, data: bytes, message: str) -> None:
    """A CSV that is wrong is refused with the row, and no trace is left behind."""
    path = tmp_path / name
    path.write_bytes(data)
    outcome = cli("import", path, tmp_path / "out.parquet")
    assert outcome.code == TRACE
    assert message in outcome.error
    assert list(tmp_path.iterdir()) == [path]


def test_csv_out_of_order_is_sorted_and_said(tmp_path: Path, cli: Cli) -> None:
    """Rows out of order are sorted stably and counted."""
    path = tmp_path / "t.csv"
    times = ("3.0", "1.0", "2.0", "2.0")
    rows = [
        CSV_ROW.replace("1.000000", time).replace(",k,", f",k{i},") for i, time in enumerate(times)
    ]
    path.write_text(CSV_HEADER + "".join(rows))
    outcome = cli("import", path, tmp_path / "out.parquet")
    assert outcome.code == 0
    assert "3 rows were out of order and have been sorted" in outcome.out
    frame = pl.read_parquet(tmp_path / "out.parquet")
    assert (frame["timestamp"] // 10**9).to_list() == [0, 1, 1, 2]
    names = pl.read_parquet(tmp_path / "out.keys.parquet")
    ordered = frame.join(names, on="key", maintain_order="left")["name"].to_list()
    assert ordered == ["k1", "k2", "k3", "k0"]


BAD_OPTIONS: dict[str, tuple[tuple[str, ...], str]] = {
    "unknown model": (("--model", "llama3-70b"), "did you mean llama3.3-70b"),
    "unknown layout": (("--layout", "lmcach"), "did you mean lmcache"),
    "unknown source": (("--source", "mooncak"), "did you mean mooncake or"),
    "unknown dtype": (("--dtype", "fp7"), "unknown dtype"),
    "TP above GPUs": (("--tensor-parallel", "8", "--num-gpus", "4"), "8 on 4 GPUs"),
    "TP no divisor": (("--tensor-parallel", "2", "--num-gpus", "3"), "2 on 3 GPUs"),
    "tier too small": (("--cpu-mem", "1MiB"), "tier cpu: capacity smaller than one block"),
    "no tier": (("--gpu-mem", "0", "--cpu-mem", "0", "--nvme-capacity", "0"), "no tier at all"),
    "watermarks": (("--low-watermark", "0.9", "--high-watermark", "0.5"), "low watermark above"),
    "watermark of nothing": (("--high-watermark", "disk=0.5"), "unknown tier"),
    "no ratio": (("--high-watermark", "half"), "not a ratio"),
    "size": (("--gpu-mem", "lots"), "not a size"),
    "duration": (("--duration", "soon"), "not a duration"),
    "rate": (("--rate", "fast"), "not a rate"),
    "users and rate": (("--users", "3", "--rate", "1/s"), "exclude each other"),
    "policy": (("--write-policy", "back"), "write_policy"),
    "unknown key": (("--set", "source.user=3"), "unknown key: did you mean users?"),
    "no key": (("--set", "users"), "not key=value"),
    "block of a turn": (("--layout", "request", "--block-tokens", "16"), "has no block size"),
    "generated": (("--layout", "request", "--store-generated", "yes"), "can't store generated"),
    "input": (("--input", __file__), "takes no input"),
    "absent input": (("--source", "mooncake", "--input", "absent.jsonl"), "no such input"),
    "no input": (("--source", "mooncake"), "needs an input"),
    "absent config": (("--config", "absent.yaml"), "can't read the configuration"),
    "zero work": (("--duration", "1ns"), "the recording came out empty"),
}


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_bad_option(
    tmp_path: Path,
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    message: str,
) -> None:
    """An option that can't be met is refused, saying what is accepted; nothing is written."""
    monkeypatch.chdir(tmp_path)
    outcome = cli("record", "out.parquet", *options)
    assert outcome.code == USAGE, outcome
    assert message in outcome.error
    assert not list(tmp_path.iterdir())


REQUESTS = {
    "not JSON": ('{"timestamp": 0', "t.jsonl:2: not JSON"),
    "not an object": ("[1]", "t.jsonl:2: not a request"),
    "no length": ('{"timestamp": 1, "output_length": 1, "hash_ids": [1]}', "bad input_length"),
    "too few ids": (
        '{"timestamp": 1, "input_length": 600, "output_length": 1, "hash_ids": [1]}',
        "too few hash_ids: got 1; accepted: 2",
    ),
    "bad id": (
        '{"timestamp": 1, "input_length": 6, "output_length": 1, "hash_ids": [-1]}',
        "bad hash id",
    ),
    "backwards": (
        '{"timestamp": 0, "input_length": 6, "output_length": 1, "hash_ids": [1]}',
        "t.jsonl:2: time runs backwards",
    ),
}


@pytest.mark.parametrize(("line", "message"), REQUESTS.values(), ids=REQUESTS)
def test_bad_requests(tmp_path: Path, cli: Cli, line: str, message: str) -> None:
    """A request file that is wrong is refused with the line, and no trace is left behind."""
    path = tmp_path / "t.jsonl"
    good = '{"timestamp": 1, "input_length": 600, "output_length": 1, "hash_ids": [1, 2]}'
    path.write_text(f"{good}\n{line}\n")
    outcome = cli("record", tmp_path / "out.parquet", "--source", "mooncake", "--input", path)
    assert outcome.code == TRACE
    assert message in outcome.error
    assert list(tmp_path.iterdir()) == [path]


def test_block_size_that_doesnt_divide(tmp_path: Path, cli: Cli) -> None:
    """Block sizes that don't divide the source's are refused with the nearest that does."""
    path = tmp_path / "t.jsonl"
    path.write_text('{"timestamp": 1, "input_length": 600, "output_length": 1, "hash_ids": [1, 2]}')
    outcome = cli("record", tmp_path / "out.parquet", "--source", "mooncake", "--input", path,
                  "--block-tokens", "100")  # fmt: skip
    assert outcome.code == USAGE
    assert "nearest: 128" in outcome.error


def test_outputs_are_never_overwritten(tmp_path: Path, cli: Cli, small_trace: Path) -> None:
    """An output that exists is refused, unless --force says otherwise."""
    out, csv = tmp_path / "out.parquet", tmp_path / "in.csv"
    csv.write_text(CSV_HEADER + CSV_ROW)
    for name in ("out.parquet", "out.csv"):
        (tmp_path / name).write_text("precious")
    commands = (
        ("record", out, "--users", 1, "--requests", 1),
        ("import", csv, out),
        ("export", small_trace, tmp_path / "out.csv", "--to", "mlperf-csv"),
    )
    for command in commands:
        outcome = cli(*command)
        assert outcome.code == TARGET
        assert "exists already" in outcome.error
        assert (tmp_path / "out.parquet").read_text() == "precious"
        assert (tmp_path / "out.csv").read_text() == "precious"
    assert all(cli(*command, "--force").code == 0 for command in commands)


@pytest.mark.parametrize(
    ("name", "message"),
    [("absent/out.parquet", "no such directory"), ("taken.parquet", "is a directory")],
)
def test_unwritable_output(tmp_path: Path, cli: Cli, name: str, message: str) -> None:
    """An output that can't be made is refused before any work."""
    (tmp_path / "taken.parquet").mkdir()
    outcome = cli("record", tmp_path / name, "--users", 1)
    assert outcome.code == TARGET
    assert message in outcome.error


def test_output_without_permission(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that may not be written to is refused."""
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    outcome = cli("record", tmp_path / "out.parquet", "--users", 1)
    assert outcome.code == TARGET
    assert "isn't writable" in outcome.error


def test_unknown_output(tmp_path: Path, cli: Cli) -> None:
    """An output of an unknown kind is refused with the known ones."""
    outcome = cli("record", tmp_path / "out.json", "--users", 1)
    assert outcome.code == USAGE
    assert "accepted: .parquet, .csv, .csv.zst or" in outcome.error


@pytest.mark.parametrize("name", ["out.parquet", "out.csv", "out.csv.zst", "out"])
def test_no_space(tmp_path: Path, cli: Cli, name: str) -> None:
    """A file that can't grow is one clear line, and leaves no draft."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (256, before[1]))
    try:
        outcome = cli("record", tmp_path / name, "--users", 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert outcome.code == TARGET
    assert "can't write: File too large" in outcome.error
    assert not list(tmp_path.iterdir())


def test_check_names_the_rows(tmp_path: Path, cli: Cli) -> None:
    """A broken invariant exits 3 and shows the first offending rows."""
    path = write_rows(
        tmp_path / "t.parquet",
        [
            (0, Op.WRITE, 4096, Tier.NVME, 7, Phase.PREFILL),
            (1, Op.DELETE, 4096, Tier.NVME, 7, Phase.EVICT),
            (2, Op.READ, 4096, Tier.NVME, 7, Phase.DECODE),
        ],
    )
    outcome = cli("check", path)
    assert outcome.code == TRACE
    told = " ".join(outcome.out.split())
    assert "1 rows: reads an object after it was deleted (first: 2)" in told
    assert "row 2, timestamp 2, op read" in told


def test_export_of_nothing_is_an_error(tmp_path: Path, cli: Cli) -> None:
    """A trace of which the format can hold no row is an error, never an empty file."""
    path = write_rows(tmp_path / "t.parquet", [(0, Op.WRITE, 1, Tier.OBJECT, 7, Phase.PREFILL)])
    outcome = cli("export", path, tmp_path / "out.csv", "--to", "mlperf-csv")
    assert outcome.code == USAGE
    assert list(tmp_path.iterdir()) == [path]


def test_recording_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """An error in the middle of a recording removes the partial file."""

    def stop(_: object) -> None:
        raise RuntimeError("stop")

    from kvtrace.recording.config import load_config
    from kvtrace.recording.pipeline import record
    from tests.support.making import SMALL

    with pytest.raises(RuntimeError, match="stop"):
        record(load_config(None, SMALL), tmp_path / "out.parquet", progress=stop)
    assert not list(tmp_path.iterdir())
