"""CIELAB color for the whole project: conversion, network scaling, uint8 storage and the sRGB gamut.

sRGB with the D65 white point and the 2-degree observer, as `skimage.color.rgb2lab` defines it (IEC 61966-2-1;
CIE 15:2004). Every conversion is differentiable, runs on the device of its input, and computes in float32
even under autocast. No other module knows the numbers 50, 110, 128 or 255/100.
"""

from __future__ import annotations

import functools

import cv2
import numpy as np
import torch
from torch import Tensor

L_CENTER = 50.0  # the networks see L / 50 - 1
AB_SCALE = 110.0  # and ab / 110
SCALING = {  # for those who run an exported network elsewhere
    "color_space": "CIELAB of sRGB, D65, 2 degrees",
    "input": "L / l_center - 1",
    "output": "ab / ab_scale",
    "l_center": L_CENTER,
    "ab_scale": AB_SCALE,
}
_L_STORED = 255.0 / 100.0  # uint8 storage: L * 255/100 and ab + 128, OpenCV's 8-bit convention
_AB_STORED = 128.0
STORED_RANGES = {"L": [0, 100], "a": [-128, 127], "b": [-128, 127]}  # what the levels 0 and 255 stand for

_XYZ_FROM_RGB = torch.tensor(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]],
    dtype=torch.float64,
)
_WHITE = torch.tensor([0.95047, 1.0, 1.08883], dtype=torch.float64)  # D65, 2 degrees
_WHITE_XYZ_FROM_RGB = _XYZ_FROM_RGB / _WHITE[:, None]
_Y_FROM_RGB = _WHITE_XYZ_FROM_RGB[1:2].numpy()
_RGB_FROM_WHITE_XYZ = torch.linalg.inv(_WHITE_XYZ_FROM_RGB)
_LOWEST_Z = -16 / 116 / 7.787  # skimage stops f(Z) at 0
# Linear intensities 1e-4 of sRGB's range, far below half a level of 8 bits, under its black and over its white
_LINEAR_LOW, _LINEAR_HIGH = -1e-4 / 12.92, ((1 + 1e-4 + 0.055) / 1.055) ** 2.4
_STEPS = 65535  # of linear intensities, for levels of 8 bits
_SURELY_LOW, _SURELY_HIGH = _LINEAR_LOW / 2, (1 + _LINEAR_HIGH) / 2  # between these whatever float32 has rounded


def _mix(matrix: Tensor, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Multiply three planes (..., H, W) by a 3x3 matrix and stack them, (..., 3, H, W)."""
    return torch.stack([(i * x).add_(y, alpha=j).add_(z, alpha=k) for i, j, k in matrix.tolist()], dim=-3)


# Each of these is a power above a knee and a line below it, which meet there: the power of what is held above the
# knee, plus the line applied to the remainder. This is faster than `torch.where`, and every gradient is finite.


def _linear_from_srgb(rgb: Tensor) -> Tensor:
    above = rgb.clamp(min=0.04045)
    return ((above + 0.055) / 1.055) ** 2.4 + (rgb - above) / 12.92


def _srgb_from_linear(linear: Tensor) -> Tensor:
    above = linear.clamp(min=0.0031308)
    return 1.055 * above ** (1 / 2.4) - 0.055 + 12.92 * (linear - above)


def _f_from_xyz(xyz: Tensor) -> Tensor:
    above = xyz.clamp(min=0.008856)
    return above ** (1 / 3) + 7.787 * (xyz - above)


def _xyz_from_f(f: Tensor) -> Tensor:
    above = f.clamp(min=0.2068966)
    return above**3 + (f - above) / 7.787


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """Convert sRGB to CIELAB.

    Args:
        rgb: (..., 3, H, W), float, in [0, 1].

    Returns:
        (..., 3, H, W), float32: L in [0, 100], ab within about [-86.2, 98.3] x [-107.9, 94.5].
    """
    with torch.autocast(rgb.device.type, enabled=False):
        xyz = _mix(_WHITE_XYZ_FROM_RGB, *_linear_from_srgb(rgb.float()).unbind(-3))
        fx, fy, fz = _f_from_xyz(xyz).unbind(-3)
        return torch.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)], dim=-3)


@functools.cache
def _linear_levels(dtype: np.dtype) -> np.ndarray:
    """Give the linear intensity of each level of 8 or 16 bit, float32 in [0, 1]."""
    highest = np.iinfo(dtype).max
    return _linear_from_srgb(torch.arange(highest + 1) / highest).numpy()


def lightness(rgb: np.ndarray) -> Tensor:
    """Give the L of `rgb_to_lab` alone, by tables.

    Args:
        rgb: (H, W, 3), uint8 or uint16.

    Returns:
        (1, H, W), float32, in [0, 100], on the CPU.
    """
    linear = _linear_levels(rgb.dtype).take(rgb, mode="clip")  # every level is in range: "clip" skips the check
    y = cv2.transform(linear, _Y_FROM_RGB)  # (H, W)
    return 116 * _f_from_xyz(torch.from_numpy(y)[None]) - 16


def _f_from_lab(lab: Tensor) -> Tensor:
    l, a, b = lab.unbind(-3)
    fy = (l + 16) / 116
    return torch.stack([fy + a / 500, fy, fy - b / 200], dim=-3)


def _linear_from_f(f: Tensor) -> Tensor:
    """Convert to linear RGB, which is outside [0, 1] where sRGB cannot show the color."""
    x, y, z = _xyz_from_f(f).unbind(-3)
    return _mix(_RGB_FROM_WHITE_XYZ, x, y, z.clamp(min=_LOWEST_Z))


def lab_to_rgb(lab: Tensor) -> Tensor:
    """Convert CIELAB to sRGB; colors outside the sRGB gamut are clipped channel by channel.

    Args:
        lab: (..., 3, H, W), float: L in [0, 100], ab in CIELAB units.

    Returns:
        (..., 3, H, W), float32, in [0, 1]. The gradient is that of the clipped value: zero where clipped.
    """
    with torch.autocast(lab.device.type, enabled=False):
        return _srgb_from_linear(_linear_from_f(_f_from_lab(lab.float()))).clamp(0, 1)


def fit_gamut(lab: Tensor, steps: int = 8) -> Tensor:
    """Move colors that sRGB cannot show toward gray, at constant L and hue, until it can.

    Clipping channel by channel, as `lab_to_rgb` does, changes the lightness; this keeps it. Bisection on the
    chroma finds the largest share that fits to within 2**-steps.

    Args:
        lab: (..., 3, H, W), float: L in [0, 100], ab in CIELAB units.
        steps: halvings of the chroma interval.

    Returns:
        (..., 3, H, W), float32. Colors inside the gamut are returned unchanged.
    """
    planes = lab.float().movedim(-3, 0)  # (3, ..., H, W)
    fitted = planes.reshape(3, 1, -1).clone()  # (3, 1, N)

    def is_shown(linear: Tensor) -> Tensor:  # (3, M) -> (M,)
        r, g, b = linear
        low, high = torch.minimum(torch.minimum(r, g), b), torch.maximum(torch.maximum(r, g), b)
        return (low > _LINEAR_LOW) & (high < _LINEAR_HIGH)

    f = _f_from_lab(fitted)
    outside = (~is_shown(_linear_from_f(f)[:, 0])).nonzero()[:, 0]
    f = f[:, 0, outside]  # (3, M)
    gray, chroma = f[1], f[::2] - f[1]  # f is linear in ab, and Y does not depend on it
    from_x, from_y, from_z = _RGB_FROM_WHITE_XYZ.to(f).T[..., None]  # (3, 1) each
    of_y, share = from_y * _xyz_from_f(gray), torch.zeros_like(gray)
    for half in (0.5 ** (1 + step) for step in range(steps)):
        x, z = _xyz_from_f(torch.addcmul(gray, share + half, chroma))
        linear = torch.addcmul(of_y, from_x, x).addcmul_(from_z, z.clamp(min=_LOWEST_Z))
        share += half * is_shown(linear)
    fitted[1:, :, outside] *= share
    return fitted.reshape(planes.shape).movedim(0, -3)


@functools.cache
def _levels_of_linear() -> np.ndarray:
    """Give the level of 8 bits of each step of linear intensity; 20 steps are one level at black, more elsewhere."""
    return to_uint8(_srgb_from_linear(torch.arange(_STEPS + 1) / _STEPS)).numpy()


def _parts(values: np.ndarray, knee: float) -> tuple[np.ndarray, np.ndarray]:
    above = torch.from_numpy(values).clamp(min=knee).numpy()  # three times as fast as `np.maximum`
    return above, values - above


@functools.cache
def _gray_ab() -> tuple[float, float]:
    """Give the ab of gray, for each unit of L: `rgb_to_lab`'s is slightly off 0, as skimage's is."""
    a, b = (rgb_to_lab(torch.ones(3, 1, 1))[1:, 0, 0] / 100).tolist()
    return a, b


def recolor(rgb: np.ndarray, ab: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give an image other ab and leave it its L, where sRGB can show the color.

    Equal to `recolor_fitted` there but for float rounding, and fast: Y comes from the image instead of from its L.

    Args:
        rgb: (H, W, 3), uint8 or uint16; fastest when what is computed from it stays in the processor's cache.
        ab: (2, H, W), float32, in CIELAB units; 0 is gray.

    Returns:
        (H, W, 3), of the type of `rgb`, and the indices into H * W of the colors that sRGB cannot show, or hardly.
    """
    highest, table, is_8_bit = np.iinfo(rgb.dtype).max, _linear_levels(rgb.dtype), rgb.dtype == np.uint8
    y = cv2.transform(cv2.LUT(rgb, table) if is_8_bit else table.take(rgb, mode="clip"), _Y_FROM_RGB)  # (H, W)
    above, below = _parts(y, 0.008856)
    fy, xz = cv2.scaleAdd(below, 7.787, cv2.pow(above, 1 / 3)), []
    for plane, gray, scale in zip(ab, _gray_ab(), (500, -200), strict=True):
        # f(Y) + (plane + gray * L) / scale, where L is 116 * f(Y) - 16
        f = cv2.addWeighted(fy, 1 + 116 * gray / scale, plane, 1 / scale, -16 * gray / scale)
        above, below = _parts(f, 0.2068966)
        xz.append(cv2.scaleAdd(below, 1 / 7.787, above * above * above))
    linear = cv2.transform(cv2.merge([xz[0], y, xz[1]]), _RGB_FROM_WHITE_XYZ.numpy())  # (H, W, 3)
    outside = np.empty(0, np.intp)
    if linear.min() < _SURELY_LOW or linear.max() > _SURELY_HIGH:
        outside = np.flatnonzero(cv2.inRange(linear, (_SURELY_LOW,) * 3, (_SURELY_HIGH,) * 3) == 0)
    if is_8_bit:
        steps: np.ndarray = cv2.addWeighted(linear, _STEPS, linear, 0, 0, dtype=cv2.CV_16U)  # rounds and clips
        return _levels_of_linear().take(steps, mode="clip"), outside
    above, below = _parts(linear, 0.0031308)
    scales = 1.055 * highest, 12.92 * highest, -0.055 * highest
    levels = cv2.addWeighted(cv2.pow(above, 1 / 2.4), scales[0], below, scales[1], scales[2], dtype=cv2.CV_16U)
    return levels, outside


def recolor_fitted(rgb: np.ndarray, ab: np.ndarray) -> np.ndarray:
    """Give an image other ab and leave it its L; `fit_gamut` moves what sRGB cannot show toward gray.

    Takes what `recolor` takes, and gives (H, W, 3), of the type of `rgb`.
    """
    l = lightness(rgb)  # (1, H, W)
    gray_ab = torch.tensor(_gray_ab())[:, None, None]
    fitted = lab_to_rgb(fit_gamut(torch.cat([l, torch.from_numpy(ab) + gray_ab * l])))  # (3, H, W)
    return np.rint((fitted * np.iinfo(rgb.dtype).max).permute(1, 2, 0).numpy()).astype(rgb.dtype)


def normalize_l(l: Tensor) -> Tensor:
    """Scale L in [0, 100] to the networks' [-1, 1]."""
    return l / L_CENTER - 1


def denormalize_l(l: Tensor) -> Tensor:
    """Scale the networks' L in [-1, 1] to [0, 100]."""
    return (l + 1) * L_CENTER


def normalize_ab(ab: Tensor) -> Tensor:
    """Scale ab in CIELAB units to the networks' [-1, 1]."""
    return ab / AB_SCALE


def denormalize_ab(ab: Tensor) -> Tensor:
    """Scale the networks' ab in [-1, 1] to CIELAB units."""
    return ab * AB_SCALE


def network_to_rgb(l: Tensor, ab: Tensor) -> Tensor:
    """Compose what the networks see into sRGB.

    Args:
        l: (B, 1, H, W), in [-1, 1].
        ab: (B, 2, H, W), in [-1, 1].

    Returns:
        (B, 3, H, W), float32, in [0, 1]; differentiable in both.
    """
    return lab_to_rgb(torch.cat([denormalize_l(l.float()), denormalize_ab(ab.float())], dim=1))


def encode_lab(rgb: np.ndarray) -> np.ndarray:
    """Convert an 8-bit sRGB image to 8-bit LAB for storage.

    OpenCV's table-driven conversion: within three levels of, and 0.3 on average from, `skimage.color.rgb2lab`.

    Takes (H, W, 3), uint8, and gives (H, W, 3), uint8: L * 255/100, a + 128, b + 128.
    """
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB)


def decode_lab(l: Tensor, ab: Tensor) -> tuple[Tensor, Tensor]:
    """Scale a stored uint8 sample to what the networks see.

    Args:
        l: (..., 1, H, W), uint8, as `encode_lab` stores it.
        ab: (..., 2, H, W), uint8, likewise.

    Returns:
        L and ab, float32, both in [-1, 1], on the device of the input.
    """
    return normalize_l(l.float() / _L_STORED), normalize_ab(ab.float() - _AB_STORED)


def to_uint8(rgb: Tensor) -> Tensor:
    """Round an image in [0, 1] to uint8 levels."""
    return (rgb * 255).round().clamp(0, 255).to(torch.uint8)


def decode_lab_image(lab: np.ndarray) -> np.ndarray:
    """Scale what `encode_lab` stored to CIELAB units, in NumPy: for threads, where torch would open its own.

    Takes (H, W, 3), uint8, and gives (H, W, 3), float32: L in [0, 100], and ab.
    """
    scale, offset = np.array([[_L_STORED, 1, 1], [0, _AB_STORED, _AB_STORED]], np.float32)
    return lab / scale - offset
