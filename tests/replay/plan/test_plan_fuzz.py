"""The planner in C against a naive model, on hostile rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import placement_model, plan_fuzz
from tests.support.plan_fuzz import STEPS_PER_TRACE, fuzz

if TYPE_CHECKING:
    from tests.support.placement_model import Hole, Lane


def test_plans_are_those_of_the_naive_model() -> None:
    """Needs, places, waits and an exporter's places of 20 random traces."""
    assert fuzz(20 * STEPS_PER_TRACE, seed=0) == 20


@pytest.mark.parametrize("rule", ["places", "waits"])
def test_canary_another_rule_is_caught(monkeypatch: pytest.MonkeyPatch, rule: str) -> None:
    """A model that takes the newest hole, or forgets transfers, doesn't agree."""

    def newest(lane: Lane, length: int) -> Hole | None:
        fitting = [hole for hole in lane.holes if hole.length >= length]
        return max(fitting, key=lambda hole: hole.age, default=None)

    if rule == "places":
        monkeypatch.setattr(placement_model.Lane, "fitting", newest)
    else:
        monkeypatch.setattr(placement_model, "TRANSFERS", ())
    with pytest.raises(AssertionError) as caught:
        plan_fuzz.fuzz(20 * STEPS_PER_TRACE, seed=0)
    assert "of seed 0" in caught.value.__notes__[0]
