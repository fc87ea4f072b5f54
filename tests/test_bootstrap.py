from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from utils.bootstrap import LEVEL, mean_intervals


def test_mean_intervals_of_two_values_reach_both() -> None:
    # Two draws of {0, 1} have the mean 0 in a quarter of the cases and 1 in another, both more than 2.5 %.
    assert mean_intervals(np.array([[0.0, 7.0], [1.0, 7.0]])).tolist() == [[0, 1], [7, 7]]


def test_mean_intervals_agree_with_scipy() -> None:
    values = np.random.default_rng(1).gamma(2, 5, 80)
    expected = scipy.stats.bootstrap(
        (values,), np.mean, confidence_level=LEVEL, n_resamples=20_000, method="percentile", random_state=2
    ).confidence_interval
    spread = expected.high - expected.low
    assert mean_intervals(values[:, None])[0] == pytest.approx([expected.low, expected.high], abs=0.04 * spread)


def test_mean_intervals_draw_the_same_images_for_every_column() -> None:
    values = np.random.default_rng(3).normal(20, 4, 50)
    first, shifted, difference = mean_intervals(np.stack([values, values + 5, np.full(50, 5.0)], axis=1))
    assert shifted == pytest.approx(first + 5) and difference == pytest.approx([5, 5])


def test_mean_intervals_leave_out_what_is_not_finite() -> None:
    values = np.random.default_rng(4).normal(20, 4, 30)
    others = np.random.default_rng(5).normal(0, 1, 30)
    some = np.where(np.arange(30) < 4, np.array([np.nan, np.inf] * 15), values)
    intervals = mean_intervals(np.stack([some, others, np.full(30, np.nan)], axis=1))
    assert intervals[0, 0] < values[4:].mean() < intervals[0, 1] and np.isnan(intervals[2]).all()
    padded = np.concatenate([np.stack([some, others], axis=1), np.full((20, 2), np.nan)])
    assert mean_intervals(padded).tolist() == intervals[:2].tolist(), "images that nothing scored are not drawn"
    assert np.isnan(mean_intervals(np.array([[1.0], [np.nan]]))).all(), "one value has no interval"
