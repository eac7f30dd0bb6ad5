"""Gaps between times that come nearly in order."""

from __future__ import annotations

import numpy as np
import pytest

from replay.measure import gaps
from replay.measure.gaps import Gaps
from replay.measure.histogram import Histogram


@pytest.mark.parametrize("disorder", [0, 3, 40])
def test_gaps_are_those_of_all_times_sorted(monkeypatch: pytest.MonkeyPatch, disorder: int) -> None:
    """However they are cut into batches, and though some come late."""
    monkeypatch.setattr(gaps, "KEPT", 50)
    rng = np.random.default_rng(3)
    times = np.cumsum(rng.integers(0, 1_000, 2_000))
    order = np.argsort(np.arange(2_000) + rng.integers(0, disorder + 1, 2_000), kind="stable")
    found = Gaps()
    for part in np.array_split(times[order], 37):
        found.add(part)
    found.finish()
    assert (found.histogram.counts == Histogram.of(np.diff(times)).counts).all()
    assert (found.first_ns, found.last_ns) == (times[0], times[-1])


def test_one_time_has_no_gap() -> None:
    """Neither have none; `finish` may be called again."""
    found = Gaps()
    found.finish()
    assert found.histogram.count == 0
    found.add(np.array([7]))
    found.finish()
    found.finish()
    assert found.histogram.count == 0
