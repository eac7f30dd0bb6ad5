"""Ops that had failed where a trace was recorded: left out of a replay, unless asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest

import replay
from kvtrace.errors import UsageError
from kvtrace.formats.common import exporting as exporters
from kvtrace.formats.common.exporting import ExportOptions
from kvtrace.trace.check import check
from kvtrace.trace.reader import open_trace
from kvtrace.trace.schema import Op, Phase, Tier
from replay import ReplayOptions
from tests.support.making import write_rows
from tests.support.traces import null_target

if TYPE_CHECKING:
    from pathlib import Path

Quick = Callable[..., ReplayOptions]
ERRORS = [0, 5, 0, 2, 2]


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Return a trace with a write and a read that failed, and a look-up that missed."""
    ops = [(Op.WRITE, 1), (Op.WRITE, 2), (Op.READ, 1), (Op.READ, 3), (Op.LOOKUP, 3)]
    rows = [
        (at * 1000, op, 0 if op is Op.LOOKUP else 8192, Tier.NVME, key, Phase.DECODE)
        for at, (op, key) in enumerate(ops)
    ]
    return write_rows(tmp_path / "t.parquet", rows, error=np.array(ERRORS, np.int32))


@pytest.mark.parametrize("with_failed", [False, True])
def test_failed_ops_are_left_out(trace: Path, quick: Quick, with_failed: bool) -> None:
    """What failed isn't executed, and that is a warning; a missed look-up stays one."""
    with open_trace(trace) as opened:
        result = replay.run(opened, [null_target()], quick(with_failed=with_failed))
    done = [(row["op"], row["key"]) for row in result.table().to_dicts()]
    expected = [("write", 1), ("write", 2), ("read", 1), ("read", 3), ("lookup", 3)]
    wanted = [op for op, error in zip(expected, ERRORS, strict=True)
              if with_failed or not error or op[0] == "lookup"]  # fmt: skip
    assert done == wanted
    warned = [each for each in result.verdict.warnings if each.code == "failed_left_out"]
    assert [each.figure.split()[0] for each in warned] == ([] if with_failed else ["2"])


def test_what_isnt_there_is_no_object(trace: Path) -> None:
    """A read that failed with ENOENT makes no object; a write that failed may have made one."""
    with open_trace(trace) as opened:
        report = check(opened)
    assert report.ok
    assert (report.derived, report.peak_bytes[Tier.NVME]) == (0, 2 * 8192)


def test_fio_gets_none_of_them(trace: Path, tmp_path: Path) -> None:
    """An export as I/O leaves out what failed, and counts it."""
    options = ExportOptions(device="/dev/none", fio_version="3.34")
    with open_trace(trace) as opened:
        made = exporters.export(opened, tmp_path / "t.log", "fio", options)
    assert (made.rows, made.dropped_rows) == (2, 3)
    assert "ops that had failed: 2" in made.loses
    assert "rows of other tiers than nvme: 0" in made.loses


def test_a_trace_of_failures_only(tmp_path: Path, quick: Quick) -> None:
    """It leaves nothing to replay, which is said with the option that executes it."""
    rows = [(0, Op.WRITE, 8192, Tier.NVME, 1, Phase.DECODE)]
    path = write_rows(tmp_path / "t.parquet", rows, error=np.array([5], np.int32))
    with open_trace(path) as opened, pytest.raises(UsageError, match="--with-failed"):
        replay.run(opened, [null_target()], quick())
