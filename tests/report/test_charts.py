from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from utils.report.charts import WIDTH, curves, histograms


def read(svg: str) -> ElementTree.Element:
    """Parse a chart; as a part of a page it declares no namespace."""
    return ElementTree.fromstring(str(svg).replace("<svg ", '<svg xmlns:xlink="xlink" ', 1))


def points(svg: str, color: str) -> list[tuple[float, float]]:
    """The corners of the widest shape of a color: the others are its legend and its dots."""
    paths = [path.get("d") for path in read(svg).iter("path") if f"var(--{color})" in path.get("style", "")]
    shapes = [[(float(x), float(y)) for x, y in re.findall(r"(-?[\d.]+) (-?[\d.]+)", path)] for path in paths]
    return max(shapes, key=lambda shape: max(shape)[0] - min(shape)[0])


def dots(svg: str, color: str) -> set[tuple[float, float]]:
    """The places of the dots of a color, without the one in the legend, which is the last."""
    found = [use for use in read(svg).iter("use") if f"var(--{color})" in use.get("style")]
    return {(float(use.get("x")), float(use.get("y"))) for use in found[:-1]}


def numbers(svg: str, anchor: str) -> list[float]:
    texts = [text.text for text in read(svg).iter("text") if f"text-anchor: {anchor}" in text.get("style")]
    return [float(text.replace("\N{MINUS SIGN}", "-")) for text in texts]


def test_histograms_share_bins_and_heights() -> None:
    values = {"A": np.array([0.0, 0.0, 32.0, 32.0]), "B": np.array([0.0, 0.0, 0.0, 32.0])}
    charts = histograms("PSNR", values, {"A": "s0", "B": "truth"})
    assert list(charts) == ["A", "B"]
    first, second = points(charts["A"], "s0"), points(charts["B"], "truth")
    assert {x for x, _ in first} == {x for x, _ in second} and min(first)[0] > 0 and max(first)[0] < WIDTH
    floor = max(y for _, y in first)
    heights = [[floor - min(y for x, y in lane if side(x)) for side in (lambda x: x < 30, lambda x: x > WIDTH - 30)]
               for lane in (first, second)]  # fmt: skip
    # Half of A's values are in each of the two outer bins, and three quarters and a quarter of B's.
    assert heights[0][0] == pytest.approx(heights[0][1])
    assert heights[1] == pytest.approx([1.5 * heights[0][0], 0.5 * heights[0][0]])
    assert numbers(charts["A"], "middle") == [] and numbers(charts["B"], "middle") == [0, 10, 20, 30]
    assert read(charts["B"]).get("aria-label") == "PSNR of B: histogram of 4 images, median 0.00"


def test_histograms_mark_the_median() -> None:
    chart = histograms("PSNR", {"A": np.array([0.0, 10.0, 40.0])}, {"A": "s0"})["A"]
    (left, _), (right, _) = min(bars := points(chart, "s0")), max(bars)
    assert [x for x, _ in points(chart, "ink")] == pytest.approx([left + (right - left) / 4] * 2)


def test_histograms_work_for_a_single_value() -> None:
    chart = histograms("PSNR", {'of "<b>&"': np.array([7.0])}, {'of "<b>&"': "gray"})['of "<b>&"']
    assert 'of "<b>&": histogram of 1 images' in read(chart).get("aria-label")
    assert 7 in numbers(chart, "middle")


@pytest.mark.parametrize("losses", [False, True])
def test_curves_are_in_order(losses: bool) -> None:
    log = [{"epoch": epoch, "a": value, "b": 0.5} for epoch, value in ((1, 0.1), (2, 1.0), (3, 10.0))]
    chart = curves("Losses", log, {"a": "first", "b": "second"}, "Model", losses)
    (x1, y1), (x2, y2), (x3, y3) = points(chart, "s0")
    assert dots(chart, "s0") == {(x1, y1), (x2, y2), (x3, y3)}
    assert x2 - x1 == pytest.approx(x3 - x2) and x1 < x2
    assert y2 - y3 == pytest.approx((y1 - y2) * (1 if losses else 10))
    assert len({y for _, y in points(chart, "s1" if losses else "gray")}) == 1
    labels = numbers(chart, "end")
    assert labels == sorted(labels) and len(labels) >= 3 and numbers(chart, "middle") == [1, 2, 3]
    assert [text.text for text in read(chart).iter("text") if "start" in text.get("style")] == ["first", "second"]
    assert read(chart).get("aria-label") == "Losses of Model over the epochs"


def test_curves_start_at_zero_for_colorfulness() -> None:
    chart = curves("Validation colorfulness", [{"epoch": 1, "a": 20.0}, {"epoch": 2, "a": 25.0}], {"a": "a"}, "Model")
    assert numbers(chart, "end")[0] == 0


@pytest.mark.parametrize("losses", [False, True])
def test_curves_work_for_one_epoch(losses: bool) -> None:
    chart = curves("Losses", [{"epoch": 4, "a": 0.25}], {"a": "first"}, "Model", losses)
    ((x, y),) = dots(chart, "s0")
    assert 0 < x < WIDTH and y > 0 and 4 in numbers(chart, "middle")


def test_curves_leave_out_what_they_cannot_show() -> None:
    log = [{"epoch": 1, "a": None, "b": 1.0}, {"epoch": 2, "a": math.nan, "b": 0.0}, {"epoch": 3, "b": 0.5}]
    chart = curves("Losses", log, {"a": "first", "b": "second"}, "Model", losses=True)
    assert len(points(chart, "s1")) == 2 and "first" not in chart and "nan" not in chart
    assert curves("Losses", log, {"a": "first", "c": "third"}, "Model", losses=True) is None
    assert curves("Losses", [], {"a": "first"}, "Model") is None


def test_curves_over_many_decades_have_few_numbers() -> None:
    log = [{"epoch": epoch, "a": 10.0**-epoch} for epoch in range(7)]
    labels = numbers(curves("Losses", log, {"a": "first"}, "Model", losses=True), "end")
    assert 3 <= len(labels) <= 8 and labels == sorted(labels)


def test_charts_leave_the_settings_of_matplotlib_alone() -> None:
    before = dict(matplotlib.rcParams)
    draw = lambda: histograms("PSNR", {"A": np.arange(9.0)}, {"A": "s0"})  # noqa: E731
    plain = draw()
    assert dict(matplotlib.rcParams) == before
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.grid": True}):
        assert draw() == plain, "nor do they depend on them"
