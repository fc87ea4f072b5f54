"""CIELAB color for the whole project: conversion, network scaling, uint8 storage and the sRGB gamut.

sRGB with the D65 white point and the 2-degree observer, as `skimage.color.rgb2lab` defines it (IEC 61966-2-1;
CIE 15:2004). Every conversion is differentiable, runs on the device of its input, and computes in float32
even under autocast. No other module knows the numbers 50, 110, 128 or 255/100.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

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
_KNEE_OF_F = 0.2068966
_SHARE_OFF = 2.0**-8  # of the chroma, by which `fit_gamut` may stay below the largest that fits
_NEWTON_STEPS, _MOST_STEPS = 6, 14  # to find it; each of the last 8 halves what is left


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
    above = f.clamp(min=_KNEE_OF_F)
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


def _is_shown(linear: Tensor) -> Tensor:
    """Tell which colors of linear RGB (3, M) sRGB shows, (M,)."""
    return torch.maximum(linear.amax(0) - _LINEAR_HIGH, _LINEAR_LOW - linear.amin(0)) < 0


def _find_room(linear: Tensor, slope: Tensor) -> Tensor:
    """Tell by how much a share may grow until a channel of linear RGB reaches its bound, if it goes on as it does.

    Takes the channels (3, M) or a gray (M,), and how fast they grow (3, M), which is lost; gives (M,).
    """
    per_slope = slope.add_(1e-30).reciprocal_()  # finite where a slope is 0
    room = (_LINEAR_LOW - linear) * per_slope
    # What grows has the upper bound to reach, which is farther
    return room.add_(per_slope.clamp_(min=0), alpha=_LINEAR_HIGH - _LINEAR_LOW).amin(0)


@torch.no_grad()
def _find_share(f: Tensor) -> Tensor:
    """Find the largest share of a color's chroma that sRGB shows, to within _SHARE_OFF and never above it.

    Newton's method on each channel of linear RGB, from gray on, always between a share that is shown and one that is
    not; what it does not find soon is found by halving.

    Takes f(X), f(Y) and f(Z), (3, M), and gives (M,), in [0, 1].
    """
    from_x, from_y, from_z = _RGB_FROM_WHITE_XYZ.to(f).T[..., None]  # (3, 1) each
    gray, shares, left = f[1], torch.zeros_like(f[1]), torch.arange(f.shape[1], device=f.device)
    y, chroma = _xyz_from_f(gray), f[::2] - gray  # f is linear in ab, and Y does not depend on it
    x, z = 3 * gray.clamp(min=_KNEE_OF_F) ** 2 * chroma
    share = _find_room(y, (from_x * x).addcmul_(from_z, z)).clamp_(max=1)
    state = torch.stack([y, gray, shares, torch.ones_like(share), share, *chroma])  # (7, M)
    for step in range(_MOST_STEPS):
        y, gray, low, high, share = state[:5]
        chroma = state[5:]
        f = torch.addcmul(gray, share, chroma)  # (2, M)
        above = f.clamp(min=_KNEE_OF_F)
        squared = above * above
        x, z = (squared * above).add_(f.sub_(above), alpha=1 / 7.787)
        linear = (from_y * y).addcmul_(from_x, x).addcmul_(from_z, z)  # (3, M)
        x, z = squared.mul_(chroma).mul_(3)  # how fast X and Z grow
        shown, room = _is_shown(linear), _find_room(linear, (from_x * x).addcmul_(from_z, z))
        low, high = torch.where(shown, share, low), torch.where(shown, high, share)
        shares.index_copy_(0, left, low)
        width = high - low
        kept = (torch.where(shown, torch.minimum(room, width), width) > _SHARE_OFF).nonzero()[:, 0]
        if not len(kept):
            break
        newton = torch.minimum(torch.maximum(share + room - _SHARE_OFF / 2, low), high - _SHARE_OFF / 2)
        state[2], state[3], state[4] = low, high, newton if step < _NEWTON_STEPS else (low + high) / 2
        state, left = state.index_select(1, kept), left[kept]
    return shares


def fit_gamut(lab: Tensor) -> Tensor:
    """Move colors that sRGB cannot show toward gray, at constant L and hue, until it can.

    Clipping channel by channel, as `lab_to_rgb` does, changes the lightness; this keeps it. The share of the chroma
    that is left is the largest that fits, to within 2**-8.

    Args:
        lab: (..., 3, H, W), float: L in [0, 100], ab in CIELAB units.

    Returns:
        (..., 3, H, W), float32. Colors inside the gamut are returned unchanged.
    """
    planes = lab.float().movedim(-3, 0)  # (3, ..., H, W)
    fitted = planes.reshape(3, 1, -1).clone()  # (3, 1, N)
    f = _f_from_lab(fitted)
    outside = (~_is_shown(_linear_from_f(f)[:, 0])).nonzero()[:, 0]
    fitted[1:, :, outside] *= _find_share(f[:, 0, outside])
    return fitted.reshape(planes.shape).movedim(0, -3)


@functools.cache
def _gray_ab() -> tuple[float, float]:
    """Give the ab of gray, for each unit of L: `rgb_to_lab`'s is slightly off 0, as skimage's is."""
    a, b = (rgb_to_lab(torch.ones(3, 1, 1))[1:, 0, 0] / 100).tolist()
    return a, b


def _split(values: np.ndarray, knee: float) -> tuple[np.ndarray, np.ndarray]:
    """Give what of the values is above a knee, held there, and what is below it."""
    return torch.from_numpy(values).clamp(min=knee).numpy(), cv2.threshold(values, knee, 0, cv2.THRESH_TRUNC)[1]


def _to_levels(lab: Sequence[np.ndarray], y: np.ndarray, dtype: np.dtype, out: np.ndarray | None) -> np.ndarray:
    """Convert L, a and b, float32 (H, W) each, to sRGB levels (H, W, 3), clipped; ab = 0 is gray, and Y that of L."""
    if dtype == np.uint8:
        # OpenCV's white is its matrix's, so that ab = 0 is gray there. Its curve of sRGB is 0.02 levels off at most.
        return cv2.convertScaleAbs(cv2.cvtColor(cv2.merge(lab), cv2.COLOR_Lab2RGB), out, 255)
    xz = []
    for plane, gray, scale in zip(lab[1:], _gray_ab(), (500, -200), strict=True):
        # f(Y) + (plane + gray * L) / scale, where f(Y) is (L + 16) / 116
        f = cv2.addWeighted(lab[0], 1 / 116 + gray / scale, plane, 1 / scale, 16 / 116)
        above, below = _split(f, _KNEE_OF_F)
        xz.append(cv2.addWeighted(above * above * above, 1, below, 1 / 7.787, -_KNEE_OF_F / 7.787))
    linear = cv2.transform(cv2.merge([xz[0], y, xz[1]]), _RGB_FROM_WHITE_XYZ.numpy())  # (H, W, 3)
    above, below = _split(linear, 0.0031308)
    highest = np.iinfo(dtype).max
    scales = 1.055 * highest, 12.92 * highest, (-0.055 - 12.92 * 0.0031308) * highest
    return cv2.addWeighted(cv2.pow(above, 1 / 2.4), scales[0], below, scales[1], scales[2], out, dtype=cv2.CV_16U)


def recolor(
    rgb: np.ndarray, ab: Sequence[np.ndarray], out: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give an image other ab and leave it its L, where sRGB can show the color.

    Args:
        rgb: (H, W, 3), uint8 or uint16; fastest when what is computed from it stays in the processor's cache.
        ab: (2, H, W), float32, in CIELAB units; 0 is gray.
        out: where to put the result; may be `rgb`.

    Returns:
        (H, W, 3), of the type of `rgb`; the indices into H * W of the colors that sRGB cannot show, or hardly, and
        their L, a and b, (3, M), for `fit_levels`.
    """
    table = _linear_levels(rgb.dtype)
    linear = cv2.LUT(rgb, table) if rgb.dtype == np.uint8 else table.take(rgb, mode="clip")
    y = cv2.transform(linear, _Y_FROM_RGB)  # (H, W)
    above, below = _split(y, 0.008856)
    # 116 * f(Y) - 16
    l = cv2.addWeighted(cv2.pow(above, 1 / 3), 116, below, 116 * 7.787, -16 - 116 * 7.787 * 0.008856)
    lab = [l, *ab]
    levels = _to_levels(lab, y, rgb.dtype, out)
    outside = np.flatnonzero(cv2.inRange(levels, (1,) * 3, (np.iinfo(levels.dtype).max - 1,) * 3) == 0)
    return levels, outside, np.stack([plane.take(outside) for plane in lab])


def fit_levels(lab: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Convert colors of any chroma to sRGB levels; `fit_gamut` moves what sRGB cannot show toward gray.

    Takes L, a and b, (3, M), float32, as `recolor` gives them, and gives (M, 3), uint8 or uint16.
    """
    planes = torch.from_numpy(lab)
    gray = torch.tensor([0, *_gray_ab()])[:, None]
    f = _f_from_lab((planes + gray * planes[0])[:, None])[:, 0]
    share = _find_share(f)
    fitted = [planes[:1], *(planes[1:] * share)[:, None]]
    return _to_levels([plane.numpy() for plane in fitted], _xyz_from_f(f[1:2]).numpy(), dtype, None)[0]


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
