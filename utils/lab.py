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
_RGB_FROM_WHITE_XYZ = torch.linalg.inv(_WHITE_XYZ_FROM_RGB)
# For XYZ relative to the sum of each row instead: D65's rounded white would tint gray, by up to 2 levels of 16 bit
_RGB_FROM_GRAY_XYZ = torch.linalg.inv(_XYZ_FROM_RGB / _XYZ_FROM_RGB.sum(dim=1, keepdim=True))
_LOWEST_Z = -16 / 116 / 7.787  # skimage stops f(Z) at 0
# Linear intensities 1e-4 of sRGB's range, far below half a level of 8 bits, under its black and over its white
_LINEAR_LOW, _LINEAR_HIGH = -1e-4 / 12.92, ((1 + 1e-4 + 0.055) / 1.055) ** 2.4


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


def _at_least(values: np.ndarray, lowest: float) -> np.ndarray:
    return torch.from_numpy(values).clamp(min=lowest).numpy()  # three times as fast as `np.maximum`


def _y_and_f(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give Y in [0, 1] and f(Y) of levels (H, W, 3), by tables: both (H, W), float32."""
    linear = _linear_levels(rgb.dtype).take(rgb, mode="clip")  # every level is in range: "clip" skips the check
    y = cv2.transform(linear, _WHITE_XYZ_FROM_RGB[1:2].numpy())  # (H, W)
    above = _at_least(y, 0.008856)
    return y, cv2.scaleAdd(y - above, 7.787, cv2.pow(above, 1 / 3))


def lightness(rgb: np.ndarray) -> Tensor:
    """Give the L of `rgb_to_lab` alone, by tables.

    Args:
        rgb: (H, W, 3), uint8 or uint16.

    Returns:
        (1, H, W), float32, in [0, 100], on the CPU.
    """
    return torch.from_numpy(116 * _y_and_f(rgb)[1] - 16)[None]


def _f_from_lab(lab: Tensor) -> Tensor:
    l, a, b = lab.unbind(-3)
    fy = (l + 16) / 116
    return torch.stack([fy + a / 500, fy, fy - b / 200], dim=-3)


def _linear_from_f(f: Tensor, matrix: Tensor = _RGB_FROM_WHITE_XYZ) -> Tensor:
    """Convert to linear RGB, which is outside [0, 1] where sRGB cannot show the color."""
    x, y, z = _xyz_from_f(f).unbind(-3)
    return _mix(matrix, x, y, z.clamp(min=_LOWEST_Z))


def lab_to_rgb(lab: Tensor) -> Tensor:
    """Convert CIELAB to sRGB; colors outside the sRGB gamut are clipped channel by channel.

    Args:
        lab: (..., 3, H, W), float: L in [0, 100], ab in CIELAB units.

    Returns:
        (..., 3, H, W), float32, in [0, 1]. The gradient is that of the clipped value: zero where clipped.
    """
    with torch.autocast(lab.device.type, enabled=False):
        return _srgb_from_linear(_linear_from_f(_f_from_lab(lab.float()))).clamp(0, 1)


def _is_shown(linear: Tensor) -> Tensor:  # (3, 1, M) -> (M,)
    return ((linear.amin(dim=0) > _LINEAR_LOW) & (linear.amax(dim=0) < _LINEAR_HIGH))[0]


def _fitting_share(f: Tensor, matrix: Tensor, steps: int = 8) -> Tensor:
    """Find by bisection, for colors that sRGB cannot show, (3, 1, M), the share of their chroma that it can, (1, M)."""
    gray, chroma = f[1], f - f[1]  # f is linear in ab
    share = torch.zeros_like(gray)
    for half in (0.5 ** (1 + step) for step in range(steps)):
        share += half * _is_shown(_linear_from_f(torch.addcmul(gray, share + half, chroma), matrix))
    return share


def fit_gamut(lab: Tensor) -> Tensor:
    """Move colors that sRGB cannot show toward gray, at constant L and hue, until it can.

    Clipping channel by channel, as `lab_to_rgb` does, changes the lightness; this keeps it. Bisection on the
    chroma finds the largest share that fits to within 1/256.

    Args:
        lab: (..., 3, H, W), float: L in [0, 100], ab in CIELAB units.

    Returns:
        (..., 3, H, W), float32. Colors inside the gamut are returned unchanged.
    """
    planes = lab.float().movedim(-3, 0)  # (3, ..., H, W)
    fitted = planes.reshape(3, 1, -1).clone()  # (3, 1, N)
    f = _f_from_lab(fitted)
    outside = (~_is_shown(_linear_from_f(f))).nonzero()[:, 0]
    fitted[1:, :, outside] *= _fitting_share(f[..., outside], _RGB_FROM_WHITE_XYZ)
    return fitted.reshape(planes.shape).movedim(0, -3)


def _linear_from_ab(fy: np.ndarray, y: np.ndarray, ab: np.ndarray) -> np.ndarray:
    """Convert f(Y), Y (H, W) and ab (2, H, W) to linear RGB (H, W, 3), with what sRGB cannot show fitted to it."""
    fx, fz = fy + ab[0] / 500, fy - ab[1] / 200
    xyz = [_x_from_f(fx), y, _x_from_f(fz)]
    linear = cv2.transform(cv2.merge(xyz), _RGB_FROM_GRAY_XYZ.numpy())  # (H, W, 3)
    if linear.min() > _LINEAR_LOW and linear.max() < _LINEAR_HIGH:
        return linear
    outside = np.flatnonzero(cv2.inRange(linear, (_LINEAR_LOW,) * 3, (_LINEAR_HIGH,) * 3) == 0)
    f = torch.from_numpy(np.stack([plane.reshape(1, -1)[:, outside] for plane in (fx, fy, fz)]))  # (3, 1, M)
    f = torch.lerp(f[1], f, _fitting_share(f, _RGB_FROM_GRAY_XYZ))
    linear.reshape(-1, 3)[outside] = _linear_from_f(f, _RGB_FROM_GRAY_XYZ)[:, 0].T.numpy()
    return linear


def _x_from_f(f: np.ndarray) -> np.ndarray:
    """Do what `_xyz_from_f` does, on one plane (H, W)."""
    above = _at_least(f, 0.2068966)
    return cv2.scaleAdd(f - above, 1 / 7.787, above * above * above)


def recolor(rgb: np.ndarray, ab: np.ndarray) -> np.ndarray:
    """Give an image other ab and leave it its L; what sRGB cannot show is moved toward gray, as by `fit_gamut`.

    Equal to `lab_to_rgb(fit_gamut(...))` but for float rounding, in a fifth of the time: Y is not computed from L, which
    was computed from Y, and only colors outside the gamut are looked at twice. Gray is where ab is 0.

    Args:
        rgb: (H, W, 3), uint8 or uint16.
        ab: (2, H, W), float32, in CIELAB units.

    Returns:
        (H, W, 3), of the type of `rgb`.
    """
    y, fy = _y_and_f(rgb)
    linear = _linear_from_ab(fy, y, ab).reshape(len(rgb), -1)  # (H, 3W)
    above = _at_least(linear, 0.0031308)
    linear -= above
    highest = np.iinfo(rgb.dtype).max
    powers, depth = cv2.pow(above, 1 / 2.4), cv2.CV_8U if rgb.dtype == np.uint8 else cv2.CV_16U
    scale = (1.055 * highest, 12.92 * highest, -0.055 * highest)
    levels = cv2.addWeighted(powers, scale[0], linear, scale[1], scale[2], dtype=depth)  # rounds and clips
    return levels.reshape(rgb.shape)


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

    Args:
        rgb: (H, W, 3), uint8.

    Returns:
        (H, W, 3), uint8: L * 255/100, a + 128, b + 128.
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
    """Scale an image that `encode_lab` stored to CIELAB, in NumPy: for threads, where torch would open its own.

    Args:
        lab: (H, W, 3), uint8.

    Returns:
        (H, W, 3), float32: L in [0, 100], ab in CIELAB units.
    """
    scale, offset = np.array([[_L_STORED, 1, 1], [0, _AB_STORED, _AB_STORED]], np.float32)
    return lab / scale - offset
