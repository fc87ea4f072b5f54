"""The colors that the web page suggests."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.color import rgb2lab

from benchmarks.likely_colors import choose_colors
from utils.coloring.palette import COLORS, LEVELS, LIKELY_AB, likely_colors, style, to_hex


def lab(colors: list[str]) -> np.ndarray:
    return rgb2lab(np.array([[*bytes.fromhex(color[1:])] for color in colors])[None] / 255)[0]


@pytest.mark.parametrize("l", [5.0, 35.0, 54.0, 75.0, 95.0])
def test_likely_colors_have_the_lightness_and_the_hue_of_the_table(l: float) -> None:
    colors = lab(likely_colors(l))
    assert len(colors) == COLORS
    np.testing.assert_allclose(colors[:, 0], l, atol=0.8)  # what 8 bits leave of it
    table = np.array(LIKELY_AB[int(l / 10)])
    chroma, wanted = np.hypot(*colors[:, 1:].T), np.hypot(*table.T)
    assert (chroma < wanted + 2).all()  # inside sRGB means the same color or a paler one
    colorful = (chroma > 8) & (wanted > 8)
    turns = np.angle((colors[:, 1] + 1j * colors[:, 2]) / (table[:, 0] + 1j * table[:, 1] + 1e-9))
    assert np.abs(turns[colorful]).max() < 0.2  # radians


def test_likely_colors_takes_both_ends() -> None:
    assert set(likely_colors(0.0)) == {"#000000"} and set(likely_colors(100.0)) == {"#ffffff"}
    assert len(LIKELY_AB) == LEVELS and all(len(set(level)) == COLORS for level in LIKELY_AB)


def test_to_hex_and_style_write_what_browsers_read() -> None:
    assert to_hex([0, 0.5, 1]) == "#0080ff"
    assert style(["#000000", "#0080ff"]) == (
        "<style>#likely0 {background: #000000}#likely1 {background: #0080ff}</style>"
    )


def test_choose_colors_takes_the_most_frequent_first_and_keeps_them_apart() -> None:
    counts = np.zeros((55, 55))
    counts[27, 27], counts[27, 28], counts[10, 40] = 100, 90, 50  # a gray, its neighbor, and a color far away
    chosen = choose_colors(counts)
    assert chosen[:2] == [(0, 0), (-68, 52)] and len(chosen) == COLORS
    distances = np.linalg.norm(np.array(chosen)[:, None] - np.array(chosen)[None], axis=2)
    assert distances[np.triu_indices(COLORS, 1)].min() >= 24
