"""Percentiles against numpy, within the error that the histogram states."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from replay.measure.histogram import ERROR_RATIO, Histogram
from replay.measure.summaries import QUANTILES

NANOSECONDS = st.lists(st.integers(0, 1 << 50), min_size=1, max_size=400)


@given(NANOSECONDS)
def test_percentiles_are_within_the_stated_error(values: list[int]) -> None:
    """A percentile is the exact one or above it by less than the stated part."""
    summary = Histogram.of(np.array(values, np.int64)).summary()
    for name, part in QUANTILES.items():
        exact = int(np.quantile(values, part / 10_000, method="inverted_cdf"))
        assert exact <= summary[name] <= exact * (1 + ERROR_RATIO)
    assert summary.max == max(values)
    assert summary.count == len(values)


@given(NANOSECONDS, NANOSECONDS)
def test_two_histograms_merge_to_that_of_all_values(one: list[int], other: list[int]) -> None:
    """Merging loses nothing."""
    merged = Histogram.of(np.array(one, np.int64))
    merged.merge(Histogram.of(np.array(other, np.int64)))
    assert merged.summary() == Histogram.of(np.array(one + other, np.int64)).summary()


def test_percentiles_with_few_samples_beyond_them_are_marked() -> None:
    """P99 of 1,000 has 10 samples beyond it, of 999 only 9."""
    assert "p99" not in Histogram.of(np.arange(1000)).summary().few_samples
    assert "p99" in Histogram.of(np.arange(999)).summary().few_samples


def test_an_empty_histogram_has_no_count_and_all_marks() -> None:
    """Nothing measured is not a latency of zero that could be mistaken for one."""
    summary = Histogram().summary()
    assert summary.count == 0
    assert set(summary.few_samples) == set(QUANTILES)
