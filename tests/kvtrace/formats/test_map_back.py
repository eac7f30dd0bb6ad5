"""Imports with the map of an export: keys, tiers, phases and requests come back."""

from __future__ import annotations

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
from kvtrace.trace.schema import Tier
from tests.support.examples import examples
from tests.support.making import make
from tests.support.random_traces import Rows, read_rows, rows

if TYPE_CHECKING:
    from pathlib import Path

IDENTITY = ["op", "tier", "key", "phase"]


def export(path: Path, out: Path, to: str, **options: Any) -> Path:
    with open_trace(path) as trace:
        exporters.export(trace, out, to, ExportOptions(force=True, **options))
    return map_path(out)


def bring(path: Path, out: Path, beside: Path) -> importers.Imported:
    return importers.convert([path], out, options=ImportOptions(force=True, map=beside))


@pytest.mark.slow
@settings(max_examples=examples(40))
@given(trace=rows())
def test_a_log_of_warp_comes_back(trace: Rows, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Also phases that ops don't tell, and requests that only some rows have."""
    folder = tmp_path_factory.mktemp("map")
    trace.columns["phase"] = (np.arange(len(trace.columns["op"])) % 4).astype(np.uint8)
    path, back = trace.write(folder / "t.parquet"), folder / "back.parquet"
    beside = export(path, folder / "t.tsv.zst", "warp", tiers=tuple(Tier), prefix="p/")
    bring(folder / "t.tsv.zst", back, beside)
    assert read_rows(back, IDENTITY).equals(read_rows(path, IDENTITY))
    requests = trace.columns.get("request")
    known = requests is not None and not np.ma.getmaskarray(requests).all()
    with open_trace(back) as opened:
        assert ("request" in opened.columns) == known
    if known:
        assert read_rows(back, ["request"]).equals(read_rows(path, ["request"]))
    assert not (folder / "back.keys.parquet").exists()


@pytest.mark.slow
def test_a_log_of_fio_comes_back(tmp_path: Path) -> None:
    """Of each row but lookups, which aren't in it."""
    path = make(tmp_path / "t.parquet").path
    beside = export(path, tmp_path / "t.log", "fio", tiers=tuple(Tier), device="/dev/none",
                    fio_version="3.34")  # fmt: skip
    bring(tmp_path / "t.log", tmp_path / "back.parquet", beside)
    names = [*IDENTITY, "request"]
    expected = read_rows(path, names).filter(pl.col("op") != "lookup")
    assert len(expected) > 100
    assert expected["phase"].n_unique() > 2
    assert read_rows(tmp_path / "back.parquet", names).equals(expected)
    with open_trace(tmp_path / "back.parquet") as opened:
        assert check(opened).ok


def test_a_map_of_another_file_is_refused(tmp_path: Path) -> None:
    """Too few records, too many, other places, and what is no map at all; nothing is left."""
    path = make(tmp_path / "t.parquet").path
    beside = export(path, tmp_path / "t.csv", "warp", tiers=(Tier.NVME,))
    fio_map = export(path, tmp_path / "t.log", "fio", filename="kv.dat", fio_version="3.34")
    export(path, tmp_path / "all.csv", "warp", tiers=tuple(Tier))
    shifted = pl.read_parquet(fio_map).with_columns(pl.col("offset") + 4096)
    shifted.write_parquet(tmp_path / "shifted")
    before = sorted(tmp_path.iterdir())
    for log, wrong, message in (
        ("all.csv", beside, "another file"),
        ("t.csv", map_path(tmp_path / "all.csv"), "another file"),
        ("t.log", tmp_path / "shifted", "its offset aren't the log's"),
        ("t.log", path, "no column record"),
        ("t.csv", tmp_path / "t.csv", "can't read"),
    ):
        with pytest.raises(TraceError, match=message):
            bring(tmp_path / log, tmp_path / "back.parquet", wrong)
        assert sorted(tmp_path.iterdir()) == before
    two = [tmp_path / "t.log", tmp_path / "t.log"]
    with pytest.raises(UsageError, match="a map is of one log"):
        importers.convert(two, tmp_path / "back.parquet", options=ImportOptions(map=fio_map))
