"""Toned photographs, such as sepia prints: their color is that of the print, not of what it shows.

A toned photograph has one color for each lightness, so that its pixels lie along one curve in CIELAB, and the curve
has one hue. Pixels of the world's colors fill a volume.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch

from utils.lab import rgb_to_lab

_SIDE = 64  # pixels of the longer side: averaged to it, little is left of the noise of JPEG's color
_BINS = 32  # of L; the curve goes through the median color of each
_LEAST_PIXELS = 0.003  # of a bin that counts, and 4
_CHROMA = 2.5, 30.0  # mean chroma: below, gray with noise; above, no print has it
_COHERENCE = 0.975  # length of the mean color over the mean chroma: 1 where there is one hue
_DISTANCE, _PER_CHROMA = 2.0, 0.18  # from the curve, in CIELAB units: JPEG spreads strong tones more
_TAIL = 2.0  # times that, of the pixels that lie farthest
_PERCENTILES = 90, 98  # of the distances, that are held to the two bounds


def is_toned(rgb: np.ndarray) -> bool:
    """Tell whether a picture looks like a toned photograph: low chroma, of one hue, that follows from the lightness.

    Args:
        rgb: (H, W, 3), uint8 or uint16. A gray picture is not toned.
    """
    scale = min(1.0, _SIDE / max(rgb.shape[:2]))
    height, width = (max(1, round(side * scale)) for side in rgb.shape[:2])
    small = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    small /= np.iinfo(rgb.dtype).max
    lab = rgb_to_lab(torch.from_numpy(small).permute(2, 0, 1)).reshape(3, -1).T.contiguous().numpy()  # (N, 3)

    bins = np.minimum((lab[:, 0] * (_BINS / 100)).astype(int), _BINS - 1)
    least = max(4, _LEAST_PIXELS * len(lab))
    members = [lab[bins == index] for index in range(_BINS)]
    members = [pixels for pixels in members if len(pixels) >= least]
    if not members:
        return False
    curve = np.array([[pixels[:, 0].mean(), *_median(pixels[:, 1:])] for pixels in members])  # (M, 3)
    share = np.array([len(pixels) for pixels in members]) / sum(map(len, members))
    chroma = share @ np.hypot(curve[:, 1], curve[:, 2])
    if not _CHROMA[0] <= chroma <= _CHROMA[1] or np.hypot(*(share @ curve[:, 1:])) < _COHERENCE * chroma:
        return False
    steps = np.arange(0, 100.5, 0.5)  # of L
    line = np.stack([steps, *(np.interp(steps, curve[:, 0], curve[:, i]) for i in (1, 2))], axis=1)
    distances = torch.cdist(torch.from_numpy(lab), torch.from_numpy(line).float()).amin(dim=1)
    near, far = np.percentile(distances.numpy(), _PERCENTILES)
    bound = _DISTANCE + _PER_CHROMA * chroma
    return bool(near <= bound and far <= _TAIL * bound)


def _median(colors: np.ndarray) -> np.ndarray:
    """Give the median of (N, 2) by channel; `np.median` takes ten times as long for so few."""
    ordered = np.sort(colors, axis=0)
    return (ordered[(len(colors) - 1) // 2] + ordered[len(colors) // 2]) / 2
