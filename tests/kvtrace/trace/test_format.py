"""The trace file: what goes in comes out, one content gives one hash, half files never appear."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kvtrace
from kvtrace.errors import TargetError
from kvtrace.files.drafts import drafts_of
from kvtrace.trace.header import RESIDENT_DTYPE, Header, TierInfo
from kvtrace.trace.reader import open_trace
from kvtrace.trace.schema import (
    COLUMNS,
    MAX_SIZE_BYTES,
    MAX_TIME_NS,
    REQUIRED,
    ROW_GROUP_ROWS,
    Op,
    Phase,
    Tier,
)
from kvtrace.trace.writer import TraceWriter
from tests.support.examples import examples
from tests.support.making import write_rows

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

OPTIONAL = [column for column in COLUMNS if not column.required]
TIMES = (-MAX_TIME_NS, MAX_TIME_NS)
BOUNDS = {
    "timestamp": (0, MAX_TIME_NS - 1),
    "size": (1, MAX_SIZE_BYTES - (1 << 20)),
    "offset": (0, 1 << 20),
    **dict.fromkeys(("due", "submit", "complete"), TIMES),
}
"""What the format allows of values that aren't of a type's whole range."""


def random_columns(rows: int, seed: int, optional: list[str]) -> dict[str, NDArray[Any]]:
    """Return columns with every value that the format allows; optional ones have nulls."""
    rng = np.random.default_rng(seed)
    columns: dict[str, NDArray[Any]] = {}
    for column in COLUMNS:
        if not column.required and column.name not in optional:
            continue
        if column.words:
            values = rng.integers(0, len(column.words), rows).astype(np.uint8)
        else:
            kind = np.dtype(column.type.to_pandas_dtype())
            bounds = BOUNDS.get(column.name) or (np.iinfo(kind).min, np.iinfo(kind).max)
            values = rng.integers(*bounds, rows, dtype=kind, endpoint=True)
        if not column.required:
            values = np.ma.array(values, mask=rng.random(rows) < 0.3)
        columns[column.name] = values
    columns["timestamp"] = np.sort(columns["timestamp"])
    return columns


def write(path: Path, columns: dict[str, NDArray[Any]], cuts: list[int], **more: Any) -> Header:
    """Write columns in pieces that end at `cuts`."""
    rows = len(columns["timestamp"])
    edges = [0, *sorted(cut % (rows + 1) for cut in cuts), rows]
    with TraceWriter(path, Header(seed=1), tuple(columns), force=True, **more) as writer:
        for begin, end in itertools.pairwise(edges):
            if end > begin:
                writer.append({name: values[begin:end] for name, values in columns.items()})
    return writer.header


@pytest.mark.slow
@settings(
    max_examples=examples(25),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    rows=st.integers(1, 300),
    seed=st.integers(0, 1000),
    optional=st.lists(st.sampled_from([column.name for column in OPTIONAL]), unique=True),
    cuts=st.lists(st.integers(0, 300), max_size=4),
    background=st.booleans(),
)
def test_write_then_read_gives_equal_columns(
    tmp_path: Path, rows: int, seed: int, optional: list[str], cuts: list[int], background: bool
) -> None:
    """All columns come back equal, nulls as 0; the file doesn't depend on how rows were cut."""
    columns = random_columns(rows, seed, optional)
    path, other = tmp_path / "t.parquet", tmp_path / "u.parquet"
    header = write(path, columns, cuts, background=background)
    assert write(other, columns, []) == header
    assert path.read_bytes() == other.read_bytes()
    with open_trace(path) as trace:
        assert trace.rows == rows
        assert trace.header == header
        parts = list(trace.batches(batch_rows=64))
    assert set(parts[0]) == set(columns)
    for name, values in columns.items():
        read = np.concatenate([part[name] for part in parts])
        np.testing.assert_array_equal(read, np.ma.filled(values, 0))


@pytest.mark.parametrize("background", [False, True])
def test_row_groups_share_memory_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, background: bool
) -> None:
    """Rows and nulls of one group don't show in another, whichever buffer it had."""
    whole = random_columns(130, 5, [])
    rank = np.ma.masked_array(np.arange(130, dtype=np.uint16), np.arange(130) < 20)
    columns: dict[str, Any] = whole | {"rank": rank}
    expected = write(tmp_path / "one.parquet", columns, [])
    monkeypatch.setattr("kvtrace.trace.writer.ROW_GROUP_ROWS", 25)
    header = write(tmp_path / "many.parquet", columns, [7, 60, 61], background=background)
    assert header.content_sha256 == expected.content_sha256
    assert pq.ParquetFile(tmp_path / "many.parquet").num_row_groups == 6
    one, many = (pl.read_parquet(tmp_path / f"{name}.parquet") for name in ("one", "many"))
    assert many.equals(one)
    assert many["rank"].null_count() == 20


def test_complete_rows_have_no_null_levels(tmp_path: Path) -> None:
    """Columns of a trace that knows everything can't be null; its content is the same."""
    columns = random_columns(50, 3, ["rank", "session"])
    columns = {name: np.ma.getdata(values) for name, values in columns.items()}
    plain = write(tmp_path / "plain.parquet", columns, [])
    header = write(tmp_path / "complete.parquet", columns, [], complete=True)
    assert header.content_sha256 == plain.content_sha256
    for name, nullable in (("plain", True), ("complete", False)):
        schema = pq.read_schema(tmp_path / f"{name}.parquet")
        assert schema.field("rank").nullable is nullable
    with open_trace(tmp_path / "complete.parquet") as trace:
        assert trace.lazy().collect().equals(pl.read_parquet(tmp_path / "plain.parquet"))


@pytest.mark.slow
@pytest.mark.parametrize("name", [column.name for column in COLUMNS])
def test_content_hash_sees_every_column(tmp_path: Path, name: str) -> None:
    """Changing one value of any column, or making it null, changes the content's hash."""
    columns = random_columns(50, 3, [column.name for column in OPTIONAL])
    before = write(tmp_path / "t.parquet", columns, [])
    values = columns[name].copy()
    last = np.ma.getdata(values)[-1]
    values[-1] = (last + 1) % 3 if name in ("op", "tier", "phase", "qos") else last ^ 1
    if name == "timestamp":
        values[-1] = last + 1
    assert (
        write(tmp_path / "t.parquet", columns | {name: values}, []).content_sha256
        != before.content_sha256
    )
    if name not in {column.name for column in REQUIRED}:
        mask = np.ma.getmaskarray(columns[name]).copy()
        mask[10] = not mask[10]
        flipped = np.ma.array(np.ma.getdata(columns[name]), mask=mask)
        after = write(tmp_path / "t.parquet", columns | {name: flipped}, [])
        assert after.content_sha256 != before.content_sha256


def test_content_hash_sees_the_semantic_header(tmp_path: Path) -> None:
    """The header counts for the content's hash, the program that wrote it doesn't."""
    rows = [(0, Op.WRITE, 1, Tier.GPU, 0, Phase.PREFILL)]

    def digest(name: str, **fields: Any) -> str | None:
        path = write_rows(tmp_path / name, rows, Header(**fields))
        with open_trace(path) as trace:
            return trace.header.content_sha256

    assert digest("a", seed=1) != digest("b", seed=2)
    assert digest("c", producer={"version": "1"}) == digest("d", producer={"version": "2"})


@pytest.mark.slow
def test_format(tmp_path: Path) -> None:
    """A file has the specified types, units in the fields' metadata, row groups of 2^20 rows."""
    rows = ROW_GROUP_ROWS + 5
    columns = random_columns(rows, 0, [])
    path = tmp_path / "t.parquet"
    write(path, columns, [1000, ROW_GROUP_ROWS - 1])
    file = pq.ParquetFile(path)
    groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert groups == [ROW_GROUP_ROWS, 5]
    for column in REQUIRED:
        field = file.schema_arrow.field(column.name)
        assert field.type == column.type
        assert not field.nullable
        assert field.metadata[b"unit"].decode() == column.unit
    assert b"kvtrace" in file.metadata.metadata


def test_totals_are_exact(tmp_path: Path) -> None:
    """Ops and bytes per tier, phase and op are whole numbers however large."""
    size = (1 << 40) - 1
    path = write_rows(
        tmp_path / "t.parquet",
        [(t, Op.READ, size, Tier.NVME, 1, Phase.DECODE) for t in range(9000)],
    )
    with open_trace(path) as trace:
        (cell,) = trace.header.totals.cells
        assert (cell.ops, cell.bytes) == (9000, 9000 * size)
        assert trace.header.totals.duration_ns == 8999


def test_residents_come_back(tmp_path: Path) -> None:
    """Objects present at the start are listed in the trace itself."""
    resident = np.array([(2, 7, 4096), (1, 9, 1)], RESIDENT_DTYPE)
    rows = [(0, Op.READ, 4096, Tier.NVME, 7, Phase.DECODE)]
    with TraceWriter(tmp_path / "t.parquet", Header(), resident=resident) as writer:
        writer.append(
            {
                name: np.array([value])
                for name, value in zip(
                    ("timestamp", "op", "size", "tier", "key", "phase"), rows[0], strict=True
                )
            }
        )
    with open_trace(tmp_path / "t.parquet") as trace:
        np.testing.assert_array_equal(trace.resident(), resident)
        assert trace.header.resident.objects == {"cpu": 1, "nvme": 1}
        assert trace.header.resident.bytes == {"cpu": 1, "nvme": 4096}


def test_lazy_frame_and_python_api(small_trace: Path) -> None:
    """`kvtrace.open` gives the rows to polars without reading them all."""
    with kvtrace.open(small_trace) as trace:
        frame = trace.lazy().filter(pl.col("op") == "read").select(pl.len()).collect()
        reads = sum(cell.ops for cell in trace.header.totals.cells if cell.op == "read")
        assert frame.item() == reads > 0


def test_polars_can_write_a_trace(tmp_path: Path, small_trace: Path) -> None:
    """A trace that polars has written, words as categories, is read like our own."""
    path = tmp_path / "p.parquet"
    pl.read_parquet(small_trace).write_parquet(path)
    with open_trace(path) as ours, open_trace(small_trace) as theirs:
        for mine, other in zip(ours.batches(), theirs.batches(), strict=True):
            for name in other:
                np.testing.assert_array_equal(mine[name], other[name])


def test_half_a_file_never_has_the_final_name(tmp_path: Path) -> None:
    """Until `close` there is only a hidden draft; an error removes it."""
    path = tmp_path / "t.parquet"
    columns = random_columns(10, 0, [])
    seen = []

    def write_and_fail() -> None:
        with TraceWriter(path, Header()) as writer:
            writer.append(columns)
            seen.extend(entry.name for entry in tmp_path.iterdir())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_fail()
    assert [re.sub("[0-9a-f]{16}", "X", name) for name in seen] == [".t.parquet.X.partial"]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_killed_recording_leaves_a_partial_file(tmp_path: Path) -> None:
    """What a kill leaves has a draft's name: never a short trace under the final one."""
    code = (
        "import os, signal, sys\n"
        "from kvtrace.recording.config import load_config\n"
        "from kvtrace.recording.pipeline import record\n"
        "from tests.support.making import SMALL\n"
        "kill = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "record(load_config(None, SMALL), sys.argv[1], progress=kill)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path / "t.parquet")], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == drafts_of(tmp_path / "t.parquet") != []


def test_existing_files_are_kept(tmp_path: Path) -> None:
    """A writer refuses a name that is taken, and a directory."""
    (tmp_path / "t.parquet").write_text("precious")
    for name in ("t.parquet", "."):
        with pytest.raises(TargetError):
            TraceWriter(tmp_path / name, Header())
    assert [entry.name for entry in tmp_path.iterdir()] == ["t.parquet"]


def test_header_says_nothing_of_the_machine(small_trace: Path) -> None:
    """No path, user, host name or time of day is in a generated trace."""
    with open_trace(small_trace) as trace:
        text = trace.header.to_json().decode()
    assert str(small_trace.parent) not in text
    assert f'"{os.uname().nodename}"' not in text
    tiers = [tier.name for tier in trace.header.tiers]
    assert tiers == ["gpu", "cpu", "nvme"]
    assert TierInfo.model_validate(trace.header.tiers[0]).occupancy_factor == 1
