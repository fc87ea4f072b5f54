"""Confidence intervals of means over images, by the percentile bootstrap (Efron 1979)."""

from __future__ import annotations

import numpy as np

LEVEL = 0.95
RESAMPLES = 2000
SEED = 0
_CHUNK = 50  # resamples worked on together


def mean_intervals(columns: np.ndarray) -> np.ndarray:
    """Give the interval of each column's mean.

    Every resample draws the same images for all columns, as many as there are, with replacement: what the columns
    have in common stays in common, and a column of differences is a paired comparison.

    Args:
        columns: (N, K), a value for each image; those that are not finite are left out of the mean.

    Returns:
        (K, 2), float64, the lower and the upper end at `LEVEL`; NaN for a column of fewer than two values.
    """
    columns = np.asarray(columns, np.float64)
    columns = columns[np.isfinite(columns).any(axis=1)]  # an image that no column scores is not drawn
    present = np.isfinite(columns)
    intervals = np.full((columns.shape[1], 2), np.nan)
    scored = present.sum(axis=0) >= 2
    if not scored.any():
        return intervals
    summed = np.concatenate([np.where(present, columns, 0), present], axis=1)[:, np.tile(scored, 2)]  # (N, 2 K')
    source, count = np.random.default_rng(SEED), len(columns)
    means = []
    for start in range(0, RESAMPLES, _CHUNK):
        draws = source.integers(count, size=(min(_CHUNK, RESAMPLES - start), count))
        times = np.stack([np.bincount(draw, minlength=count) for draw in draws])  # how often each image was drawn
        sums, numbers = np.split(times @ summed, 2, axis=1)
        means.append(np.divide(sums, numbers, out=np.full_like(sums, np.nan), where=numbers > 0))
    tails = (1 - LEVEL) / 2
    intervals[scored] = np.nanquantile(np.concatenate(means), [tails, 1 - tails], axis=0).T
    return intervals
