"""How often a run looks at its loop: each look takes CPU from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kvtrace.trace.schema import Op, Phase, Tier
from replay import TargetSpec
from replay.execution.measurement import Measurement
from tests.support.traces import Row, write_trace
from tests.support.whole import Command

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any


@pytest.mark.slow
def test_a_loop_is_left_alone(cli: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An op each 100 µs for a second: a handful of looks, not one after the other.

    Buggy (November 2026): a look that took an op out asked for the next at once, without end.
    """
    looks = 0
    look = Measurement._look

    def counted(*given: Any) -> float:
        nonlocal looks
        looks += 1
        return look(*given)

    monkeypatch.setattr(Measurement, "_look", counted)
    rows: list[Row] = [
        (i * 100_000, Op.READ, Tier.NVME, i, Phase.DECODE, 4096) for i in range(10_000)
    ]
    trace = write_trace(tmp_path / "t.parquet", rows)
    null = TargetSpec("null", (Tier.NVME,))
    _, document = Command(cli, monkeypatch, tmp_path)(trace, [null])
    assert document["ops"] == 10_000
    assert 1 <= looks <= 40
