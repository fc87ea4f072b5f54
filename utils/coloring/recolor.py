"""An image's own L joined with other ab, levels in and levels out: what `merge` does to every pixel.

In OpenCV and NumPy, whose many small steps cost less than torch's. ab = 0 is gray here, as it is in OpenCV; in
`rgb_to_lab`, as in skimage, gray is slightly off 0.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import cv2
import numpy as np
import torch

from utils.lab import (
    F_KNEE,
    F_SLOPE,
    RGB_FROM_WHITE_XYZ,
    SRGB_KNEE,
    SRGB_SLOPE,
    XYZ_KNEE,
    Y_FROM_RGB,
    find_share,
    linear_levels,
    rgb_to_lab,
    xyz_from_f,
)


@functools.cache
def _gray_ab() -> tuple[float, float]:
    """Give `rgb_to_lab`'s ab of gray, for each unit of L."""
    a, b = (rgb_to_lab(torch.ones(3, 1, 1))[1:, 0, 0] / 100).tolist()
    return a, b


def _split(values: np.ndarray, knee: float) -> tuple[np.ndarray, np.ndarray]:
    """Hold values above a knee, and hold them below it; torch's clamp is three times as fast as `np.maximum`."""
    return torch.from_numpy(values).clamp(min=knee).numpy(), cv2.threshold(values, knee, 0, cv2.THRESH_TRUNC)[1]


def _to_levels(lab: Sequence[np.ndarray], y: np.ndarray, dtype: np.dtype, out: np.ndarray | None) -> np.ndarray:
    """Convert colors to sRGB, clipped channel by channel.

    Args:
        lab: L, a and b, (H, W) each, float32; ab = 0 is gray.
        y: (H, W), the Y of L.
        dtype: uint8 or uint16.
        out: where to put the levels, or None.

    Returns:
        (H, W, 3).
    """
    if dtype == np.uint8:  # OpenCV's curve of sRGB is off by at most 5 levels of 16 bits, near black
        return cv2.convertScaleAbs(cv2.cvtColor(cv2.merge(lab), cv2.COLOR_Lab2RGB), out, 255)
    xz = []
    for plane, gray, scale in zip(lab[1:], _gray_ab(), (500, -200), strict=True):
        # f(Y) + (plane + gray * L) / scale, where f(Y) is (L + 16) / 116
        f = cv2.addWeighted(lab[0], 1 / 116 + gray / scale, plane, 1 / scale, 16 / 116)
        above, below = _split(f, F_KNEE)
        cube = cv2.multiply(cv2.multiply(above, above), above, above)
        xz.append(cv2.addWeighted(cube, 1, below, 1 / F_SLOPE, -F_KNEE / F_SLOPE, cube))
    linear = cv2.transform(cv2.merge([xz[0], y, xz[1]]), RGB_FROM_WHITE_XYZ)  # (H, W, 3)
    above, below = _split(linear, SRGB_KNEE)
    power, line, offset = (65535 * factor for factor in (1.055, SRGB_SLOPE, -0.055 - SRGB_SLOPE * SRGB_KNEE))
    return cv2.addWeighted(cv2.pow(above, 1 / 2.4, above), power, below, line, offset, out, dtype=cv2.CV_16U)


def recolor(
    rgb: np.ndarray, ab: Sequence[np.ndarray], out: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give an image other ab and leave it its L, where sRGB can show the color.

    Args:
        rgb: (H, W, 3), uint8 or uint16; fastest when what is computed from it stays in the processor's cache.
        ab: two planes (H, W), float32, in CIELAB units; 0 is gray.
        out: where to put the levels; may be `rgb`.

    Returns:
        (H, W, 3), of the type of `rgb`; the indices into H * W of the M colors that sRGB cannot show, or hardly; and
        their L, a and b, (3, M), for `fit_levels`.
    """
    table = linear_levels(rgb.dtype)
    linear = cv2.LUT(rgb, table) if rgb.dtype == np.uint8 else table.take(rgb, mode="clip")  # all are in range
    y = cv2.transform(linear, Y_FROM_RGB)  # (H, W)
    above, below = _split(y, XYZ_KNEE)
    line = 116 * F_SLOPE  # of 116 * f(Y) - 16
    lab = [cv2.addWeighted(cv2.pow(above, 1 / 3, above), 116, below, line, -16 - line * XYZ_KNEE, above), *ab]
    levels = _to_levels(lab, y, rgb.dtype, out)
    outside = np.flatnonzero(cv2.inRange(levels, (1,) * 3, (np.iinfo(rgb.dtype).max - 1,) * 3) == 0)
    return levels, outside, np.stack([plane.take(outside) for plane in lab])


def fit_levels(lab: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Convert colors to sRGB; what it cannot show is moved toward gray, at constant L and hue, until it can.

    Takes L, a and b, (3, M), float32, as `recolor` gives them, and gives (M, 3), uint8 or uint16.
    """
    l, ab = lab[:1], lab[1:]
    gray = (l + 16) / 116  # (1, M)
    gray_a, gray_b = _gray_ab()
    chroma_x, chroma_z = (ab[0] + gray_a * l[0]) / 500, (ab[1] + gray_b * l[0]) / -200
    fitted = ab * find_share(gray[0], chroma_x, chroma_z)
    return _to_levels([l, fitted[:1], fitted[1:]], xyz_from_f(torch.from_numpy(gray)).numpy(), dtype, None)[0]
