"""A trace that is a directory of parts: the same rows, whole or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kvtrace.errors import TargetError, TraceError
from kvtrace.trace import parts, writer
from kvtrace.trace.check import check
from kvtrace.trace.header import RESIDENT_DTYPE
from kvtrace.trace.parts import PartsWriter
from kvtrace.trace.reader import open_trace
from kvtrace.trace.schema import Op, Phase, Tier
from tests.support.making import make

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let row groups have 256 rows, parts two of them."""
    monkeypatch.setattr(writer, "ROW_GROUP_ROWS", 256)
    monkeypatch.setattr(parts, "PART_ROWS", 512)


@pytest.mark.slow
@pytest.mark.usefixtures("small_parts")
def test_a_directory_is_the_same_trace(tmp_path: Path) -> None:
    """The rows of all parts, in their order, are those of the single file; and so is the header."""
    one, two = make(tmp_path / "t.parquet"), make(tmp_path / "t")
    with open_trace(tmp_path / "t.parquet") as single, open_trace(tmp_path / "t") as many:
        assert many.rows == single.rows > 1024
        assert many.lazy().collect().equals(single.lazy().collect())
        assert many.header == single.header
        assert len(many.parts) == -(-many.rows // 512)
        ours = np.concatenate([b["key"] for b in many.batches(["key"], batch_rows=100)])
        assert ours.tolist() == single.lazy().collect()["key"].to_list()
        assert check(many).ok
        assert many.sha256() != single.sha256()
    assert one.header.content_sha256 == two.header.content_sha256


@pytest.mark.slow
@pytest.mark.usefixtures("small_parts")
def test_force_replaces_a_trace_and_nothing_else(tmp_path: Path) -> None:
    """An old trace's parts are gone; a directory that isn't a trace is left alone."""
    make(tmp_path / "t")
    before = len(list((tmp_path / "t").iterdir()))
    rows = {"timestamp": np.zeros(1, np.int64), "op": np.array([Op.WRITE], np.uint8),
            "size": np.ones(1, np.uint64), "tier": np.array([Tier.NVME], np.uint8),
            "key": np.zeros(1, np.uint64),
            "phase": np.array([Phase.PREFILL], np.uint8)}  # fmt: skip
    with (
        open_trace(tmp_path / "t") as old,
        PartsWriter(tmp_path / "t", old.header, force=True) as out,
    ):
        out.append(rows)
        out.resident = np.array([(0, key, 0) for key in range(3)], RESIDENT_DTYPE)
    with open_trace(tmp_path / "t") as trace:
        assert (trace.rows, len(trace.resident())) == (1, 3)
    assert len(list((tmp_path / "t").iterdir())) == 2 < before
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.parquet").write_bytes(b"x")
    with pytest.raises(TargetError, match="is a directory"):
        make(other)
    with pytest.raises(TargetError, match="exists already"):
        make(tmp_path / "t")
    assert (other / "mine.parquet").read_bytes() == b"x"


@pytest.mark.usefixtures("small_parts")
def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that gets full in the third part: no directory, no partial one."""
    written: list[Any] = []
    whole = PartsWriter._write

    def full(self: PartsWriter, table: pa.Table, start_row: int) -> None:
        written.append(start_row)
        if len(written) > 5:
            raise OSError(28, "No space left on device")
        whole(self, table, start_row)

    monkeypatch.setattr(PartsWriter, "_write", full)
    with pytest.raises(TargetError, match="No space left"):
        make(tmp_path / "t")
    assert not list(tmp_path.iterdir())


def test_bad_directories(tmp_path: Path) -> None:
    """No parts, a part with other columns, a part that is damaged: named."""
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(TraceError, match="a directory without parts"):
        open_trace(empty)
    make(tmp_path / "t")
    table = pq.read_table(next((tmp_path / "t").glob("part-*"))).drop(["rank"])
    pq.write_table(table, tmp_path / "t" / "part-99999.parquet")
    with pytest.raises(TraceError, match=r"part-99999\.parquet: other columns"):
        open_trace(tmp_path / "t")
    (tmp_path / "t" / "part-99999.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(TraceError, match=r"part-99999\.parquet: truncated or damaged"):
        open_trace(tmp_path / "t")


def test_parts_of_others_are_read_in_order(tmp_path: Path) -> None:
    """A directory without our header is its Parquet files by name."""
    make(tmp_path / "t.parquet")
    table = pq.read_table(tmp_path / "t.parquet")
    other = tmp_path / "other"
    other.mkdir()
    pq.write_table(table.slice(0, 700), other / "a.parquet")
    pq.write_table(table.slice(700), other / "b.parquet")
    with open_trace(other) as trace:
        assert trace.rows == table.num_rows
        rows = np.concatenate([b["timestamp"] for b in trace.batches(["timestamp"])])
    assert rows.tolist() == table["timestamp"].to_pylist()
