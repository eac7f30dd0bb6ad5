"""Golden traces: the format and what a seed means don't change unnoticed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
import pytest

from kvtrace.recording.config import load_config
from kvtrace.recording.pipeline import record
from kvtrace.trace.check import check
from kvtrace.trace.reader import open_trace
from tests.golden.traces import FOLDER, GOLDEN, path_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("name", GOLDEN)
def test_recording_gives_the_golden_trace(tmp_path: Path, name: str) -> None:
    """A golden configuration gives the content that was blessed (`make bless` rewrites it)."""
    made = record(load_config(None, GOLDEN[name]), tmp_path / "t.parquet")
    with open_trace(path_of(name)) as golden:
        assert pl.read_parquet(made.path).equals(golden.lazy().collect())
        assert made.header.content_sha256 == golden.header.content_sha256


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.parquet")), ids=lambda path: path.name)
def test_kept_traces_are_sound(path: Path) -> None:
    """Every kept trace is small, readable, and breaks no invariant."""
    with open_trace(path) as trace:
        assert 0 < trace.rows <= 1000
        assert check(trace).ok
