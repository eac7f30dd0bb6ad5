"""Steady or not, on series whose answer can be worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay.state.steady import WINDOWS, assess


def test_fewer_than_five_windows_say_nothing() -> None:
    """Too little was seen: neither steady nor not."""
    assert assess([]) is None
    assert assess([1.0] * (WINDOWS - 1)) is None


def test_a_constant_rate_is_steady() -> None:
    """No range and no slope."""
    found = assess([3.0] * WINDOWS)
    assert found is not None
    assert found.steady
    assert (found.average, found.range_ratio) == (3, 0)
    assert found.slope_ratio == pytest.approx(0)


@pytest.mark.parametrize(
    ("rates", "range_ratio", "slope_ratio", "steady"),
    [
        ([90, 110, 100, 90, 110], 0.2, 0.08, True),  # both at or below their limits
        ([89, 111, 100, 90, 110], 0.22, 0.084, False),  # too wide
        ([98, 99, 100, 101, 102], 0.04, 0.04, True),
        ([94, 97, 100, 103, 106], 0.12, 0.12, False),  # rises by more than a tenth
        ([106, 103, 100, 97, 94], 0.12, 0.12, False),  # falls likewise
    ],
)
def test_range_and_slope_have_limits(
    rates: list[float], range_ratio: float, slope_ratio: float, steady: bool
) -> None:
    """A fifth of the average for the range, a tenth for the line through the windows."""
    found = assess(rates)
    assert found is not None
    assert found.range_ratio == pytest.approx(range_ratio)
    assert found.slope_ratio == pytest.approx(slope_ratio)
    assert found.steady is steady


def test_only_the_last_five_count() -> None:
    """A drive that was fast while it was fresh, and then settled, is steady."""
    found = assess([900.0, 700, 300, *[100.0] * WINDOWS])
    assert found is not None
    assert found.steady
    found = assess([*[100.0] * WINDOWS, 300])
    assert found is not None
    assert not found.steady


def test_a_device_that_stands_still_is_not_steady() -> None:
    """Nothing was written: no division by zero, and no success."""
    found = assess([0.0] * WINDOWS)
    assert found is not None
    assert not found.steady


@given(st.lists(st.floats(1, 1e12), min_size=WINDOWS, max_size=20), st.floats(1e-3, 1e3))
def test_the_unit_does_not_matter(rates: list[float], factor: float) -> None:
    """The same series in another unit has the same ratios."""
    one, other = assess(rates), assess([rate * factor for rate in rates])
    assert one is not None
    assert other is not None
    assert other.range_ratio == pytest.approx(one.range_ratio)
    assert other.slope_ratio == pytest.approx(one.slope_ratio, abs=1e-6)
