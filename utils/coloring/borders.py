"""The uniform border of a scan: found on the pixels, kept from the network, and left as it is.

A border is a band of one color along a side of the picture, or along several, that ends in a straight edge. What is
asked of it is strict, as an uncolored band costs an ordinary photograph more than a colored border costs a scan.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from utils.images import Picture

_LEVELS = 8  # of 255, that a pixel of the border may differ from its color: the noise of JPEG
_FEW = 0.01  # share of a line's pixels that may differ by more: dust
_BLOCK = 16  # lines: JPEG rings, and its color bleeds, within a block of the edge
_STEP = 16  # of 255, by which the picture differs from the border across the edge
_SLACK = 2  # lines over which the step may stretch
_EDGE = 0.75  # share of the edge that has such a step
_LEAST = 0.01  # of the picture's shorter side, and _LEAST_PIXELS
_LEAST_PIXELS = 4
_BLUER = 16  # of 255, that blue may exceed red by: white, black and paper are not blue, and skies are
_MOST = 0.8  # of the height, and of the width


@dataclass(frozen=True)
class Border:
    """The widths of a border in pixels; 0 where a side has none."""

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0

    def __bool__(self) -> bool:
        return any((self.top, self.bottom, self.left, self.right))


def find_border(rgb: np.ndarray) -> Border:
    """Find the border of one color along each side of a picture.

    Args:
        rgb: (H, W, 3), uint8 or uint16.

    Returns:
        Its widths; all 0 where there is none, or where nearly all of the picture would belong to it.
    """
    height, width = rgb.shape[:2]
    if min(height, width) < 4 * _LEAST_PIXELS:
        return Border()
    # Lines from each side inward: (depth, length, 3)
    sides = [rgb, rgb[::-1], rgb.swapaxes(0, 1), rgb.swapaxes(0, 1)[::-1]]
    bands = [_uniform_lines(lines) for lines in sides]
    least = max(_LEAST_PIXELS, round(_LEAST * min(height, width)))
    found = []
    for index, (lines, band) in enumerate(zip(sides, bands, strict=True)):
        first, last = bands[2:] if index < 2 else bands[:2]  # the corners belong to the neighbors
        inner = lines[:, first : lines.shape[1] - last]
        edge = _find_edge(inner, _color(lines[0]), band) if band >= least and inner.shape[1] else 0
        found.append(edge if edge >= least else 0)
    border = Border(*found)
    if border.top + border.bottom > _MOST * height or border.left + border.right > _MOST * width:
        return Border()
    return border


def _differs(line: np.ndarray, color: np.ndarray, levels: float) -> np.ndarray:
    """Tell which pixels (N, 3) differ from a color (3,), or each from its own (N, 3), in any channel."""
    scale = np.iinfo(line.dtype).max / 255
    return (np.abs(line.astype(np.int32) - color) > levels * scale).any(axis=-1)


def _color(line: np.ndarray) -> np.ndarray:
    return np.median(line, axis=0).astype(np.int32)


def _uniform_lines(lines: np.ndarray) -> int:
    """Count the lines from the first on that have the color of the first; 0 where no border has that color."""
    color = _color(lines[0])
    if color[2] - color[0] > _BLUER * np.iinfo(lines.dtype).max / 255:
        return 0
    for index, line in enumerate(lines):
        if _differs(line, color, _LEVELS).mean() > _FEW:
            return index
    return len(lines)


def _find_edge(lines: np.ndarray, color: np.ndarray, band: int) -> int:
    """Find the line at which a band ends in a straight step; 0 where it does not."""
    for index in range(band, min(band + _BLOCK, len(lines) - _SLACK)):
        inside, outside = lines[index + _SLACK], lines[max(0, index - _SLACK)]
        step = _differs(inside, color, _STEP) & _differs(inside, outside.astype(np.int32), _STEP)
        if step.mean() >= _EDGE:
            return index + int(_differs(lines[index], color, _STEP).mean() < _EDGE)
    return 0


def cut_border(picture: Picture, border: Border) -> Picture:
    """Give the part of a picture inside its border, as a view."""
    height, width = picture.rgb.shape[:2]
    inside = np.s_[border.top : height - border.bottom, border.left : width - border.right]
    return Picture(picture.rgb[inside], None if picture.alpha is None else picture.alpha[inside])


def put_back(picture: Picture, border: Border, colored: Picture) -> Picture:
    """Give a picture with its border as it was, and `colored`, of the size that `cut_border` gave, inside."""
    if not border:
        return colored
    rgb = picture.rgb.copy()
    cut_border(Picture(rgb, None), border).rgb[...] = colored.rgb
    return Picture(rgb, picture.alpha)
