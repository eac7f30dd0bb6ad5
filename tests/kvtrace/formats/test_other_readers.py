"""What other programs read of a trace: every column as it was written, keys above all.

Each reader is used where it is installed. duckdb, pandas and fastparquet together are 170 MB, so
that they aren't among the packages that the tests install.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from kvtrace.trace.schema import Op, Phase, Tier
from tests.support.making import write_rows

if TYPE_CHECKING:
    from pathlib import Path

ROWS = 3_000
KINDS = {
    "dense": lambda rng: np.arange(ROWS, dtype=np.uint64) // np.uint64(3),
    "hashes": lambda rng: rng.integers(0, 2**64 - 1, ROWS, dtype=np.uint64),
    "nodes": lambda rng: (
        (rng.integers(0, 4, ROWS, dtype=np.uint64) << np.uint64(48)) + np.uint64(7)
    ),
    "beyond signed": lambda rng: np.uint64(2**64 - 1) - np.arange(ROWS, dtype=np.uint64),
}
"""Keys of every kind."""


def trace(tmp_path: Path, kind: str) -> tuple[Path, dict[str, list[int]]]:
    """Return a trace, and its columns of numbers."""
    rng = np.random.default_rng(1)
    keys = KINDS[kind](rng)
    times = np.cumsum(rng.integers(0, 10**10, ROWS))
    rows = [
        (int(time), Op.WRITE, 4096, Tier.NVME, int(key), Phase.PREFILL)
        for time, key in zip(times, keys, strict=True)
    ]
    submit = times + rng.integers(0, 10**9, ROWS)
    path = write_rows(tmp_path / "t.parquet", rows, submit=submit)
    wanted = {"timestamp": times.tolist(), "key": keys.tolist(), "submit": submit.tolist()}
    return path, wanted


def by_polars(path: Path, name: str) -> list[int]:
    return pl.read_parquet(path)[name].to_list()


def by_pyarrow(path: Path, name: str) -> list[int]:
    values: list[int] = pq.read_table(path)[name].to_pylist()
    return values


def by_pandas(path: Path, name: str) -> list[int]:
    return [int(value) for value in package("pandas").read_parquet(path)[name]]


def by_duckdb(path: Path, name: str) -> list[int]:
    found = package("duckdb").sql(f"select {name} from read_parquet('{path}')").fetchall()
    return [int(value) for (value,) in found]


def by_fastparquet(path: Path, name: str) -> list[int]:
    return [int(value) for value in package("fastparquet").ParquetFile(str(path)).to_pandas()[name]]


def package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        pytest.skip(f"{name} isn't installed: pip install duckdb pandas fastparquet")


READERS = [by_polars, by_pyarrow, by_pandas, by_duckdb, by_fastparquet]


# fastparquet leaves its files open.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reader", READERS)
def test_numbers_are_exact(tmp_path: Path, reader: Any, kind: str) -> None:
    """Every reader gives the keys and times that were written."""
    path, wanted = trace(tmp_path, kind)
    for name, values in wanted.items():
        assert reader(path, name) == values


@pytest.mark.parametrize("kind", KINDS)
def test_only_dense_keys_are_delta_encoded(tmp_path: Path, kind: str) -> None:
    """Fastparquet reads deltas of 28 bits and more wrongly: such columns have none."""
    path, _ = trace(tmp_path, kind)
    group = pq.ParquetFile(path).metadata.row_group(0)
    columns = [group.column(number) for number in range(group.num_columns)]
    deltas = {c.path_in_schema for c in columns if "DELTA_BINARY_PACKED" in c.encodings}
    assert deltas == ({"key"} if kind == "dense" else set())
