"""Small SVG charts for a page: histograms and curves whose colors the page's style sheet sets.

They hold no text but the numbers on their axes, which are drawn at the page's own size: names are the page's part.
A mark takes its color from the class s0 to s7, gray or truth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

WIDTH = 360  # units, about a phone's width in CSS pixels
_PAD = 14  # beside a histogram, so that the numbers at its ends are not cut
_LANE, _AXIS = 46, 20
_LEFT, _RIGHT, _TOP, _HEIGHT = 38, 10, 8, 190
_BINS = 32
_FEW_POINTS = 40  # up to here each has a dot


@dataclass(frozen=True)
class Curve:
    """A line of (x, y) points; `color` is a class of the style sheet."""

    name: str
    color: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False


def _svg(height: float, label: str, parts: Sequence[str]) -> Markup:
    """Wrap parts, which hold nothing but numbers and class names of this module."""
    head = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(WIDTH, f"{height:g}", label)
    return head + Markup("".join(parts)) + Markup("</svg>")


def _ticks(low: float, high: float) -> list[float]:
    """Choose round numbers within an interval."""
    values = MaxNLocator(nbins=5, steps=[1, 2, 5, 10]).tick_values(low, high)
    slack = 1e-9 * (high - low)
    return [float(value) for value in values if low - slack <= value <= high + slack]


def _log_ticks(low: float, high: float) -> list[float]:
    """Choose 1, 2 and 5 times powers of ten within an interval, or plain round numbers where those are too few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [base * 10.0**power for power in powers for base in (1, 2, 5)]
    inside = [value for value in values if low <= value <= high]
    return inside[:: -(-len(inside) // 6)] if len(inside) >= 2 else _ticks(low, high)


class Histograms:
    """Histograms below each other over one common axis, each with its median.

    All have the same bins and the same scale of heights, which is a share of the values.
    """

    def __init__(self, lanes: Sequence[np.ndarray]) -> None:
        """Take in the values of each lane, (N,), all finite, of which there must be one at least."""
        everything = np.concatenate(lanes)
        low, high = float(everything.min()), float(everything.max())
        if high - low < 1e-6:
            low, high = low - 1, high + 1
        self._low, self._high = low, high
        edges = np.linspace(low, high, _BINS + 1)
        self._shares = [np.histogram(lane, edges)[0] / max(1, len(lane)) for lane in lanes]
        self._top = max(float(share.max()) for share in self._shares)
        self._medians = [float(np.median(lane)) if len(lane) else math.nan for lane in lanes]

    def _x(self, value: float) -> float:
        return _PAD + (WIDTH - 2 * _PAD) * (value - self._low) / (self._high - self._low)

    def lane(self, index: int, color: str, label: str) -> Markup:
        """Draw one lane."""
        width = (WIDTH - 2 * _PAD) / _BINS
        parts = []
        for i, share in enumerate(self._shares[index]):
            height = (_LANE - 4) * share / self._top
            if share:
                x, y = _PAD + i * width, _LANE - height
                parts.append(
                    f'<rect class="{color}" x="{x:.1f}" y="{y:.1f}" width="{width - 1:.1f}" height="{height:.1f}"/>'
                )
        parts.append(f'<path class="line" d="M{_PAD} {_LANE - 0.5}H{WIDTH - _PAD}"/>')
        if not math.isnan(self._medians[index]):
            parts.append(f'<path class="median" d="M{self._x(self._medians[index]):.1f} 0V{_LANE}"/>')
        return _svg(_LANE, label, parts)

    def axis(self, label: str) -> Markup:
        """Draw the axis below the lanes."""
        parts = []
        for tick in _ticks(self._low, self._high):
            x = self._x(tick)
            parts.append(
                f'<path class="line" d="M{x:.1f} 0v4"/><text class="middle" x="{x:.1f}" y="16">{tick:g}</text>'
            )
        return _svg(_AXIS, label, parts)


def curves(lines: Sequence[Curve], label: str, log: bool = False, from_zero: bool = False) -> Markup:
    """Draw curves over whole numbers such as epochs.

    Args:
        lines: at least one point in all; with `log` all y are positive.
        label: for those who cannot see it.
        log: whether the y axis is logarithmic.
        from_zero: whether it starts at 0.
    """
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    left, right = (min(xs), max(xs)) if min(xs) < max(xs) else (xs[0] - 1, xs[0] + 1)
    low, high = min([*ys, 0] if from_zero else ys), max(ys)
    if log:
        low, high = low / 1.15, high * 1.15
    else:
        margin = 0.06 * (high - low) or max(1e-3, 0.05 * abs(high))
        low, high = (low if from_zero and low == 0 else low - margin), high + margin
    bottom = _HEIGHT - _AXIS - 2

    def x_of(x: float) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * (x - left) / (right - left)

    def y_of(y: float) -> float:
        share = math.log(y / low) / math.log(high / low) if log else (y - low) / (high - low)
        return bottom - (bottom - _TOP) * share

    parts = []
    for tick in _log_ticks(low, high) if log else _ticks(low, high):
        y = y_of(tick)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}"/>')
        parts.append(f'<text class="end" x="{_LEFT - 5}" y="{y + 3.5:.1f}">{tick:g}</text>')
    for tick in _ticks(left, right):
        if tick == round(tick):
            parts.append(f'<text class="middle" x="{x_of(tick):.1f}" y="{_HEIGHT - 4}">{tick:g}</text>')
    parts.append(f'<path class="line" d="M{_LEFT} {bottom}H{WIDTH - _RIGHT}"/>')
    for line in lines:
        points = [(x_of(x), y_of(y)) for x, y in line.points]
        kind = f"curve {line.color}{' dashed' if line.dashed else ''}"
        if len(points) > 1:
            parts.append(f'<path class="{kind}" d="M{" ".join(f"{x:.1f} {y:.1f}" for x, y in points)}"/>')
        elif line.dashed:  # a level to compare with
            parts.append(f'<path class="{kind}" d="M{_LEFT} {points[0][1]:.1f}H{WIDTH - _RIGHT}"/>')
        if not line.dashed and len(points) <= _FEW_POINTS:
            parts += [f'<circle class="{line.color}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in points]
    return _svg(_HEIGHT, label, parts)
