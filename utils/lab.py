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
Y_FROM_RGB = _WHITE_XYZ_FROM_RGB[1:2].numpy()
RGB_FROM_WHITE_XYZ = torch.linalg.inv(_WHITE_XYZ_FROM_RGB).numpy()
_FROM_X, _FROM_Y, _FROM_Z = RGB_FROM_WHITE_XYZ.astype(np.float32).T[..., None]  # (3, 1) each
XYZ_KNEE, F_KNEE, F_SLOPE = 0.008856, 0.2068966, 7.787  # below them f is a line, F_SLOPE * XYZ + 16 / 116
SRGB_KNEE, SRGB_SLOPE = 0.0031308, 12.92  # of linear intensity, below which sRGB is a line
_LOWEST_Z = -16 / 116 / F_SLOPE  # skimage stops f(Z) at 0
# Linear intensities 1e-4 of sRGB's range, far below half a level of 8 bits, under its black and over its white
_LINEAR_LOW, _LINEAR_HIGH = -1e-4 / SRGB_SLOPE, ((1 + 1e-4 + 0.055) / 1.055) ** 2.4
_SHARE_STEP = np.float32(2**-8)
_SHARE_OFF = 0.75 * 2**-8  # for shares within a step of the largest: the search may end by an estimate
_NEWTON_STEPS, _MOST_STEPS = 6, 15  # of the search; each of the last 9 halves what is left


def _mix(matrix: Tensor | np.ndarray, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Multiply three planes (..., H, W) by a 3x3 matrix and stack them, (..., 3, H, W)."""
    return torch.stack([(i * x).add_(y, alpha=j).add_(z, alpha=k) for i, j, k in matrix.tolist()], dim=-3)


# Each of these is a power above a knee and a line below it, which meet there: the power of what is held above the
# knee, plus the line applied to the remainder. This is faster than `torch.where`, and every gradient is finite.


def _linear_from_srgb(rgb: Tensor) -> Tensor:
    above = rgb.clamp(min=0.04045)
    return ((above + 0.055) / 1.055) ** 2.4 + (rgb - above) / 12.92


def _srgb_from_linear(linear: Tensor) -> Tensor:
    above = linear.clamp(min=SRGB_KNEE)
    return 1.055 * above ** (1 / 2.4) - 0.055 + SRGB_SLOPE * (linear - above)


def _f_from_xyz(xyz: Tensor) -> Tensor:
    above = xyz.clamp(min=XYZ_KNEE)
    return above ** (1 / 3) + F_SLOPE * (xyz - above)


def xyz_from_f(f: Tensor) -> Tensor:
    """Give X, Y or Z, as shares of white's, of CIELAB's f of it; any shape."""
    above = f.clamp(min=F_KNEE)
    return above**3 + (f - above) / F_SLOPE


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
def linear_levels(dtype: np.dtype) -> np.ndarray:
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
    linear = linear_levels(rgb.dtype).take(rgb, mode="clip")  # every level is in range: "clip" skips the check
    y = cv2.transform(linear, Y_FROM_RGB)  # (H, W)
    return 116 * _f_from_xyz(torch.from_numpy(y)[None]) - 16


def _f_from_lab(lab: Tensor) -> Tensor:
    l, a, b = lab.unbind(-3)
    fy = (l + 16) / 116
    return torch.stack([fy + a / 500, fy, fy - b / 200], dim=-3)


def _linear_from_f(f: Tensor) -> Tensor:
    """Convert to linear RGB, which is outside [0, 1] where sRGB cannot show the color."""
    x, y, z = xyz_from_f(f).unbind(-3)
    return _mix(RGB_FROM_WHITE_XYZ, x, y, z.clamp(min=_LOWEST_Z))


def lab_to_rgb(lab: Tensor) -> Tensor:
    """Convert CIELAB to sRGB; colors outside the sRGB gamut are clipped channel by channel.

    Args:
        lab: (..., 3, H, W), float: L in [0, 100], ab in CIELAB units.

    Returns:
        (..., 3, H, W), float32, in [0, 1]. The gradient is that of the clipped value: zero where clipped.
    """
    with torch.autocast(lab.device.type, enabled=False):
        return _srgb_from_linear(_linear_from_f(_f_from_lab(lab.float()))).clamp(0, 1)


def _find_room(linear: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """Tell how far a share may grow until a channel of linear RGB reaches its bound, if it goes on as it does.

    Takes the channels (3, M), or a gray (M,), and how fast they grow (3, M); gives (M,).
    """
    per_slope = 1 / (slope + 1e-30)  # finite where a slope is 0
    # What grows has the upper bound to reach, everything else the lower.
    room = (_LINEAR_LOW - linear) * per_slope + (_LINEAR_HIGH - _LINEAR_LOW) * np.maximum(per_slope, 0)
    return room.min(axis=0)


def find_share(gray: np.ndarray, chroma_x: np.ndarray, chroma_z: np.ndarray) -> np.ndarray:
    """Find the largest share of a color's chroma, in steps of 2**-8, that sRGB shows.

    Newton's method on each channel of linear RGB, from gray on, always between a share that is shown and one that is
    not; what it does not find soon is found by halving. NumPy takes half of torch's time for it.

    Args:
        gray: (M,), float32, f(Y), which does not depend on the share.
        chroma_x: (M,), f(X) - f(Y) of the color, in which f is linear.
        chroma_z: (M,), f(Z) - f(Y).

    Returns:
        (M,), float32, in [0, 1].
    """

    def grow(chroma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give X or Z at the share, and its slope."""
        f = share * chroma + gray
        above = np.maximum(f, F_KNEE)
        squared = above * above
        return squared * above + (f - above) / F_SLOPE, 3 * squared * chroma

    def is_shown(linear: np.ndarray) -> np.ndarray:
        return (linear.min(axis=0) > _LINEAR_LOW) & (linear.max(axis=0) < _LINEAR_HIGH)

    low, high, share = np.zeros_like(gray), np.ones_like(gray), np.zeros_like(gray)
    y = xyz_from_f(torch.from_numpy(gray)).numpy()
    (_, slope_x), (_, slope_z) = grow(chroma_x), grow(chroma_z)
    share = np.minimum(_find_room(y, _FROM_X * slope_x + _FROM_Z * slope_z), 1)
    shares, left, colors = low, np.arange(len(gray)), (y, gray, chroma_x, chroma_z)
    for step in range(_MOST_STEPS):
        (x, slope_x), (z, slope_z) = grow(chroma_x), grow(chroma_z)
        linear = _FROM_X * x + _FROM_Y * y + _FROM_Z * z  # (3, M)
        shown = is_shown(linear)
        room = _find_room(linear, _FROM_X * slope_x + _FROM_Z * slope_z)
        np.copyto(low, share, where=shown)
        np.copyto(high, share, where=~shown)
        shares[left] = low
        kept = np.flatnonzero((high - low > _SHARE_OFF) & ~(shown & (room <= _SHARE_OFF)))
        if not len(kept):
            break
        if step < _NEWTON_STEPS:  # a little less than what fits, so that it is shown
            share = np.minimum(np.maximum(share + room - _SHARE_OFF / 2, low), high - _SHARE_OFF / 2)
        else:
            share = (low + high) / 2
        left = left[kept]
        y, gray, chroma_x, chroma_z = (values.take(kept) for values in (y, gray, chroma_x, chroma_z))
        low, high, share = (values.take(kept) for values in (low, high, share))
    y, gray, chroma_x, chroma_z = colors
    share = np.minimum(np.floor(shares / _SHARE_STEP + 1) * _SHARE_STEP, 1)
    (x, _), (z, _) = grow(chroma_x), grow(chroma_z)
    return share - _SHARE_STEP * ~is_shown(_FROM_X * x + _FROM_Y * y + _FROM_Z * z)


def fit_gamut(lab: Tensor) -> Tensor:
    """Move colors that sRGB cannot show toward gray, at constant L and hue, until it can.

    Clipping channel by channel, as `lab_to_rgb` does, changes the lightness; this keeps it. See `find_share`.

    Args:
        lab: (..., 3, H, W), float: L in [0, 100], ab in CIELAB units.

    Returns:
        (..., 3, H, W), float32. Colors inside the gamut are returned unchanged.
    """
    planes = lab.float().movedim(-3, 0)  # (3, ..., H, W)
    fitted = planes.reshape(3, 1, -1).clone()  # (3, 1, N)
    f = _f_from_lab(fitted)
    linear = _linear_from_f(f)[:, 0]
    outside = ((linear.amin(0) <= _LINEAR_LOW) | (linear.amax(0) >= _LINEAR_HIGH)).nonzero()[:, 0]
    x, gray, z = f[:, 0, outside].detach().cpu()
    share = find_share(gray.numpy(), (x - gray).numpy(), (z - gray).numpy())
    fitted[1:, :, outside] *= torch.from_numpy(share).to(fitted.device)
    return fitted.reshape(planes.shape).movedim(0, -3)


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
