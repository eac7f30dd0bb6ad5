"""Hostile traces end with one line and exit 3, before compiled code has seen them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from kvtrace.errors import UsageError
from kvtrace.reader import open_trace
from kvtrace.schema import MAX_TIME_NS, Tier
from replay import ReplayOptions, TargetSpec
from replay.options import Timing
from replay.prepare import prepare, schedule_text
from replay.watch import Silent, Stop
from tests.support.hostile import parquet

if TYPE_CHECKING:
    from pathlib import Path

NULL = TargetSpec("null", tuple(Tier))


def prepared(path: Path, **options: Any) -> str | None:
    """Return what a replay of `path` on null targets says of its schedule."""
    chosen = ReplayOptions(**options)
    with open_trace(path) as trace:
        made = prepare(trace, (NULL,), chosen, Silent(), Stop())
    return schedule_text(made.survey, chosen)


@pytest.mark.parametrize("speed", [5e-324, 1e-9, 0.5])
@pytest.mark.parametrize("mode", [Timing.OPEN, Timing.CLOSED])
def test_a_run_that_no_clock_holds_is_refused(tmp_path: Path, speed: float, mode: Timing) -> None:
    """Due times beyond 2^62 ns are refused with the lowest speed that is accepted."""
    path = parquet(tmp_path / "t.parquet", timestamp=[0, MAX_TIME_NS])
    with pytest.raises(UsageError, match=r"--speed: .*longer than a clock can hold.*at least 1"):
        prepared(path, speed=speed, mode=mode)
    assert prepared(path, speed=speed, mode=Timing.MAX) is None


def test_a_long_run_says_so_before_it_starts(tmp_path: Path) -> None:
    """One line says when the last op is due, in days where that is long."""
    path = parquet(tmp_path / "t.parquet", timestamp=[0, 3 * 10**9])
    assert prepared(path) == "schedule: the last op is due after 3.000 s"
    assert prepared(path, speed=1e-6) == (
        "schedule: the last op is due after 3000000.0 s, 34.7 days"
    )
