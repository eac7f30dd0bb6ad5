"""The Python API: what its modules show, and how its values read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import kvtrace
import replay
from kvtrace.schema import Tier
from tests.making import make

if TYPE_CHECKING:
    from pathlib import Path


def test_modules_show_their_public_names() -> None:
    """dir() gives the public names and nothing else; each of them is there."""
    for module in (kvtrace, replay):
        assert dir(module) == sorted(module.__all__)
        assert all(hasattr(module, name) for name in module.__all__)


def test_values_read_short(tmp_path: Path) -> None:
    """Traces, recordings and results say in one line what they are."""
    path = tmp_path / "t.parquet"
    made = make(path, requests=5)
    rows = made.header.totals.rows
    assert repr(made) == f"<Recorded {path}: {rows:,} rows>"
    with kvtrace.open(str(path)) as trace:
        assert repr(trace) == f"<Trace {path}: {rows:,} rows>"
    options = replay.ReplayOptions(mode="max", warmup_ns=0)
    result = replay.run(str(path), [replay.TargetSpec("null", tuple(Tier))], options)
    assert repr(result).startswith(f"<Result {result.verdict.word}: ")
    report = tmp_path / "r.json"
    report.write_text(result.document().model_dump_json())
    assert replay.load(str(report)) == replay.load(report)
