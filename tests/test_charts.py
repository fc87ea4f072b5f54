from __future__ import annotations

import math
from xml.etree import ElementTree

import numpy as np
import pytest

from utils.charts import Curve, Histograms, curves


def read(svg: str) -> ElementTree.Element:
    """Parse a chart, which must be XML of its own."""
    return ElementTree.fromstring(svg)


def test_histograms_share_bins_and_heights() -> None:
    chart = Histograms([np.array([0.0, 0.0, 32.0, 32.0]), np.array([0.0, 0.0, 0.0, 32.0])])
    lanes = [read(chart.lane(index, f"s{index}", "label")) for index in (0, 1)]
    heights = [[float(bar.get("height")) for bar in lane.iter("rect")] for lane in lanes]
    assert heights[0][0] == heights[0][1] and heights[1] == pytest.approx([heights[0][0] * 1.5, heights[0][0] / 2])
    assert [bar.get("class") for bar in lanes[1].iter("rect")] == ["s1", "s1"]
    places = [[float(bar.get("x")) for bar in lane.iter("rect")] for lane in lanes]
    assert places[0] == places[1] and places[0][0] < places[0][1]
    ticks = [float(text.text) for text in read(chart.axis("PSNR")).iter("text")]
    assert ticks == sorted(ticks) and ticks[0] == 0 and 3 <= len(ticks) <= 7 and ticks[-1] <= 32


def test_histograms_work_for_a_single_value() -> None:
    lane = read(Histograms([np.array([7.0])]).lane(0, "gray", 'of "<b>&"'))
    assert len(list(lane.iter("rect"))) == 1 and lane.get("aria-label") == 'of "<b>&"'


@pytest.mark.parametrize("log", [False, True])
def test_curves_put_points_in_order(log: bool) -> None:
    points = [(1, 0.1), (2, 1.0), (3, 10.0)]
    chart = read(curves([Curve("loss", "s0", points), Curve("level", "gray", points[:1], dashed=True)], "Loss", log))
    dots = [(float(dot.get("cx")), float(dot.get("cy"))) for dot in chart.iter("circle")]
    steps = [dots[i][1] - dots[i + 1][1] for i in (0, 1)]
    assert len(dots) == 3 and dots[0][0] < dots[1][0] < dots[2][0] and min(steps) > 0
    assert steps[1] == pytest.approx(steps[0], abs=0.2) if log else steps[1] == pytest.approx(10 * steps[0], rel=0.05)
    assert {path.get("class") for path in chart.iter("path")} >= {"curve s0", "curve gray dashed"}
    labels = [text for text in chart.iter("text") if text.get("class") == "end"]
    assert len(labels) >= 3 and all(math.isfinite(float(text.text)) for text in labels)


@pytest.mark.parametrize("log", [False, True])
def test_curves_work_for_one_epoch(log: bool) -> None:
    chart = read(curves([Curve("loss", "s0", [(4, 0.25)])], "Loss", log, from_zero=not log))
    (dot,) = chart.iter("circle")
    assert 0 < float(dot.get("cy")) < 190
    assert "4" in [text.text for text in chart.iter("text") if text.get("class") == "middle"]
