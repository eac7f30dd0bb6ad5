"""Hostile traces end with one line and exit 3, before compiled code has seen them."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import replay
from kvtrace.errors import UsageError
from kvtrace.trace.reader import open_trace
from kvtrace.trace.schema import MAX_TIME_NS, Op, Tier
from replay import ReplayOptions, TargetSpec
from replay.measure.counts import Counts, counts_of
from replay.options import Timing
from replay.plan.prepare import prepare, schedule_text
from replay.result import assess
from replay.targets.support.simulated import faulty_target
from replay.watch import Silent, Stop
from tests.support.hostile import parquet

if TYPE_CHECKING:
    from pathlib import Path

NULL = TargetSpec("null", tuple(Tier))


def prepared(path: Path, **options: Any) -> str | None:
    """Return what a replay of `path` on null targets says of its schedule."""
    chosen = ReplayOptions(**options)
    with open_trace(path) as trace:
        made = prepare(trace, (NULL,), chosen, Silent(), Stop(), ExitStack())
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


ROWS = 400


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"limit_rows": 123},
        {"limit_ns": 150_000},
        {"mode": Timing.CLOSED},
        {"mode": Timing.OPEN, "speed": 1e6},
        {"warmup_ns": 100_000, "mode": Timing.OPEN},
        {"engine": "threads", "threads": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("stopped", [False, True])
def test_rows_are_ops_errors_and_not_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], stopped: bool
) -> None:
    """Whatever is cut off, fails or waits for what failed: every row is in one count."""
    rng = np.random.default_rng(3)
    op = np.where(np.arange(ROWS) < 40, Op.WRITE, rng.choice([Op.READ, Op.WRITE, Op.LOOKUP], ROWS))
    path = parquet(
        tmp_path / "t.parquet",
        timestamp=np.arange(ROWS) * 1000,
        op=op,
        size=np.where(op == Op.LOOKUP, 0, 4096),
        tier=np.where(np.arange(ROWS) % 7 == 0, Tier.GPU, Tier.NVME),
        key=np.arange(ROWS) % 40,
    )
    seen: list[Counts] = []

    def kept(*found: Any, **more: Any) -> Counts:
        seen.append(counts_of(*found, **more))
        return seen[-1]

    monkeypatch.setattr(assess, "counts_of", kept)
    target = faulty_target({5: -5, 60: -28, 61: 512})
    target.spec = replace(target.spec, tiers=(Tier.NVME,))
    stop = Stop()
    if stopped:
        monkeypatch.setattr(
            "replay.execution.measurement.Measurement._look", lambda *_: stop.set() or False
        )
    fixed = {"mode": Timing.MAX, "populate": "none", "arena_bytes": 16 << 20}
    chosen = ReplayOptions(**fixed | options)
    result = replay.run(path, [target], chosen, stop=stop)
    assert seen[-1].add_up, seen[-1]
    assert seen[-1].errors or seen[-1].not_executed
    assert "counts_differ" not in {reason.code for reason in result.verdict.reasons}


def test_rows_that_vanish_are_a_reason() -> None:
    """A row in no count, or in two, makes a result INVALID."""
    assert Counts(10, 7, 1, 2).add_up
    for other in (Counts(10, 7, 1, 1), Counts(10, 8, 1, 2)):
        assert not other.add_up
