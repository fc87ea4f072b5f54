"""Colors to choose from on the web page: common ones by name, and the likely ones at a lightness.

Likely colors where someone points are an idea of Zhang et al. 2017, "Real-Time User-Guided Image Colorization with
Learned Deep Priors", arXiv:1705.02999. Theirs are the network's, these the most frequent ones of photographs at that
lightness.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from utils.lab import fit_gamut, lab_to_rgb

COMMON = {  # sRGB; of their colors only the hue and the chroma count
    "skin": "#c89878",
    "dark skin": "#7a4e38",
    "grass": "#5a8040",
    "leaves": "#3f6a38",
    "sky": "#78a8d8",
    "sea": "#407890",
    "wood": "#8a6038",
    "brick": "#a05040",
    "denim": "#405878",
    "gray": "#808080",
}
LEVELS, COLORS = 10, 9  # of L in [0, 100], and of each of them
# ab in CIELAB units, the most frequent first: printed by `python -m benchmarks.likely_colors` for 4,000 of 17,182
# photographs
LIKELY_AB = (
    ((0, 0), (24, 8), (8, -24), (28, -40), (-20, 16), (4, 24), (32, -16), (-16, -20), (44, -60)),
    ((0, 4), (20, 20), (4, -20), (-16, 24), (20, -40), (24, -4), (44, 24), (40, -56), (-24, 0)),
    ((0, 4), (16, 24), (4, -20), (-16, 24), (40, 28), (24, 0), (16, -44), (-24, 0), (36, -60)),
    ((0, 4), (16, 24), (-8, 28), (0, -20), (40, 32), (24, 0), (12, -44), (-24, 8), (-32, 32)),
    ((0, 4), (8, 28), (0, -20), (-16, 24), (24, 8), (32, 32), (-8, 48), (16, 52), (56, 36)),
    ((0, 4), (8, 28), (0, -20), (-16, 24), (24, 8), (24, 48), (-8, 48), (40, 28), (4, -44)),
    ((0, 4), (4, 28), (0, -20), (24, 12), (8, 52), (-20, 32), (28, 36), (32, 60), (-16, 56)),
    ((0, 4), (4, 28), (0, -20), (8, 52), (24, 12), (-16, 44), (-20, 20), (8, 76), (-16, 68)),
    ((0, 4), (0, 28), (-4, -20), (0, 52), (-4, 76), (-24, 40), (20, -12), (-24, -4), (24, 12)),
    ((0, 0), (-4, 24), (-12, 48), (-16, 72), (-24, -8), (-28, 28), (-16, 96), (-4, -24), (20, -16)),
)


def to_hex(rgb: Sequence[float]) -> str:
    """Write three levels in [0, 1] as "#rrggbb"."""
    return "#" + bytes(round(255 * float(level)) for level in rgb).hex()


def likely_colors(l: float) -> list[str]:
    """Give the COLORS that photographs have most often at an L in [0, 100], with that L: "#rrggbb", all in sRGB."""
    level = LIKELY_AB[min(int(l * LEVELS / 100), LEVELS - 1)]
    lab = torch.tensor([(l, *ab) for ab in level]).T[:, :, None]  # (3, COLORS, 1)
    return [to_hex(rgb) for rgb in lab_to_rgb(fit_gamut(lab))[..., 0].T.tolist()]


def style(colors: Sequence[str]) -> str:
    """Paint the buttons #likely0, #likely1, ... of the page in these colors: HTML."""
    rules = "".join(f"#likely{number} {{background: {color}}}" for number, color in enumerate(colors))
    return f"<style>{rules}</style>"
