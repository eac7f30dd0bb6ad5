"""What all exporters and importers share: options, maps, files that appear whole or not at all."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from kvtrace import plugins
from kvtrace.errors import TargetError, UsageError
from kvtrace.files.outfile import OutFile
from kvtrace.files.textfile import open_binary
from kvtrace.formats.common import importing as importers
from kvtrace.formats.common.importing import ImportOptions
from kvtrace.formats.common.sidecar import MapWriter, map_path
from kvtrace.trace.schema import Phase, Tier

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Options:
    force: bool = False
    bucket: str = ""
    size_bytes: int = 0


def test_an_option_that_means_nothing_to_a_format_is_refused() -> None:
    """No option is silently without effect."""
    plugins.check_options(Options(force=True, bucket="b"), accepted=("bucket",), of="format x")
    with pytest.raises(UsageError, match="format x has no option --size: accepted: --bucket"):
        plugins.check_options(Options(size_bytes=1), accepted=("bucket",), of="format x")


def test_several_files_for_a_format_of_one_are_refused(tmp_path: Path) -> None:
    """A file is never left out."""
    paths = [tmp_path / "a.csv", tmp_path / "b.csv"]
    with pytest.raises(UsageError, match="one file"):
        importers.convert(
            paths, tmp_path / "t.parquet", format_name="mlperf-csv", options=ImportOptions()
        )


@pytest.mark.parametrize("name", ["x.txt", "x.txt.gz", "x.txt.zst"])
def test_out_file_appears_whole(tmp_path: Path, name: str) -> None:
    """The file is there at the end of the block, compressed as its name says."""
    path = tmp_path / name
    with OutFile(path, force=False) as file:
        file.write(b"one\n")
        assert not path.exists()
    with open_binary(path) as stream:
        assert stream.read() == b"one\n"
    with pytest.raises(TargetError, match="exists already"):
        OutFile(path, force=False)


def test_failed_block_leaves_nothing_and_keeps_what_was(tmp_path: Path) -> None:
    """An error within the block neither leaves a half file nor harms the one before."""
    path = tmp_path / "x.txt"
    path.write_text("before")
    with suppress(ZeroDivisionError), OutFile(path, force=True) as file:
        file.write(b"half")
        file.write(bytes(1 // 0))
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_map_numbers_records(tmp_path: Path) -> None:
    """Each record has its number, its key, tier and phase; what isn't known is null."""
    out = tmp_path / "x.log"
    columns = {
        "key": np.array([7, 2**63], np.uint64),
        "tier": np.array([Tier.NVME, Tier.CPU], np.uint8),
        "phase": np.array([Phase.DECODE, Phase.EVICT], np.uint8),
    }
    with MapWriter(out, force=False, extra=[pa.field("place", pa.int64())]) as writer:
        writer.append(columns)
        writer.append({**columns, "place": np.array([1, 2]), "request": np.array([5, 6])})
    found = pl.read_parquet(map_path(out)).cast({"tier": pl.String, "phase": pl.String})
    assert found.rows() == [
        (0, 7, "nvme", "decode", None, None),
        (1, 2**63, "cpu", "evict", None, None),
        (2, 7, "nvme", "decode", 5, 1),
        (3, 2**63, "cpu", "evict", 6, 2),
    ]
