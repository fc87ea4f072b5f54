"""Image metrics: PSNR, SSIM, MS-SSIM, colorfulness, and the L1 distance of ab.

They return one value per image, (B,), so that no result depends on the batches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.lab import denormalize_ab

MS_SSIM_MIN_SIZE = 176  # the window of 11 pixels must fit in the fifth scale
_MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_C1, _C2 = 0.01**2, 0.03**2
_REACH = 5  # pixels from the center of the window to its edge
_WINDOW = torch.exp(torch.arange(-_REACH, _REACH + 1, dtype=torch.float64).square() / (-2 * 1.5**2))
_WINDOW /= _WINDOW.sum()
_CPU_PLANES = 16  # processed together; at 256 x 256 pixels they fit in the cache


def full_precision() -> AbstractContextManager[None]:
    """Keep convolutions in float32: TF32 has 10 bits, and SSIM subtracts nearly equal second moments."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=torch.backends.cudnn.benchmark, allow_tf32=False)


def psnr(images: Tensor, truth: Tensor) -> Tensor:
    """Compute the PSNR of float RGB images (B, 3, H, W), in [0, 1]: (B,), in dB; inf for equal images."""
    return -10 * (images - truth).square().mean(dim=(1, 2, 3)).log10()


def _split_planes(images: Tensor) -> list[Tensor]:
    """Turn the planes of images (B, 3, H, W) into the channels of one image, (1, P, H, W); of several on a CPU.

    There, convolutions are fast on few channels in the channels-last layout.
    """
    planes = images.flatten(0, 1)[None]
    if not images.is_cpu:
        return [planes]
    return [part.contiguous(memory_format=torch.channels_last) for part in planes.split(_CPU_PLANES, dim=1)]


def _window_mean(planes: Tensor) -> Tensor:
    """Average under the Gaussian window, (1, P, H, W) to (1, P, H - 10, W - 10), in two passes of 11 taps."""
    count = planes.shape[1]
    taps = _WINDOW.to(planes.dtype).to(planes.device).expand(count, 1, 1, -1)  # in this order: MPS has no float64
    rows = F.conv2d(planes, taps, groups=count)
    return F.conv2d(rows, taps.mT, groups=count)


def _scales(planes: Tensor) -> Iterator[Tensor]:
    """Halve planes (1, P, H, W) from scale to scale; only the first if they are too small for five.

    The first and the last get mirrored borders, because their SSIM is the mean over the whole image.
    """
    count = len(_MS_SSIM_WEIGHTS) if min(planes.shape[-2:]) >= MS_SSIM_MIN_SIZE else 1
    for scale in range(count):
        planes = F.avg_pool2d(planes, 2) if scale else planes
        yield F.pad(planes, [_REACH] * 4, mode="reflect") if scale in (0, count - 1) else planes


class _TruthScale:
    """The terms of SSIM that depend only on true planes y, with their means subtracted, at one scale.

    2 y, 2 mu and contrast = sigma^2 + C2; with the means added back to mu, 2 level and luminance = level^2 + C1.
    """

    def __init__(self, planes: Tensor, means: Tensor) -> None:
        """Compute them from y, (1, P, H, W), and the means that were subtracted, (1, P, 1, 1)."""
        mu = _window_mean(planes)
        variance = _window_mean(planes * planes).addcmul_(mu, mu, value=-1).clamp_(min=0)
        level = mu + means
        self.twice_y, self.twice_mu, self.twice_level = 2 * planes, 2 * mu, 2 * level
        self.luminance, self.contrast = level.square_().add_(_C1), variance.add_(_C2)


class _TruthPlanes:
    """Planes of the truth, (1, P, H, W), prepared for comparisons."""

    def __init__(self, planes: Tensor) -> None:
        self._means = planes.mean(dim=(2, 3), keepdim=True)  # (1, P, 1, 1)
        self._scales = [_TruthScale(scale, self._means) for scale in _scales(planes - self._means)]

    def compare(self, planes: Tensor) -> Tensor:
        """Compare planes (1, P, H, W): SSIM and the five factors of MS-SSIM, (6, P); (1, P) for small images."""
        similarities, contrasts = [], []
        for scale, (x, y) in enumerate(zip(_scales(planes - self._means), self._scales, strict=True)):
            mu = _window_mean(x)
            variance = _window_mean(x * x).addcmul_(mu, mu, value=-1).clamp_(min=0)
            twice_covariance = _window_mean(x * y.twice_y).addcmul_(mu, y.twice_mu, value=-1)
            contrast = twice_covariance.add_(_C2).div_(variance.add_(y.contrast))
            if scale in (0, len(self._scales) - 1):
                level = mu.add_(self._means)
                luminance = (level * y.twice_level).add_(_C1)
                luminance.div_(level.square_().add_(y.luminance))
                similarities.append(luminance.mul_(contrast).mean(dim=(2, 3)))
                contrast = contrast[:, :, _REACH:-_REACH, _REACH:-_REACH]
            contrasts.append(contrast.mean(dim=(2, 3)))
        return torch.cat([*similarities[:1], *contrasts[:-1], *similarities[1:]])


class StructuralSimilarity:
    """SSIM and MS-SSIM of several sets of images to one truth, whose windows are computed once.

    Both as torchmetrics computes them, averaged over the three channels. SSIM (Wang et al. 2004): Gaussian window of
    11 x 11 pixels, sigma 1.5, K1 = 0.01, K2 = 0.03; averaged over the whole image with mirrored borders (scikit-image
    excludes a border of 5 pixels). MS-SSIM (Wang et al. 2003): five scales with the paper's weights; the first four
    exclude that border, and negative factors count as 0.

    The mean of each true plane is subtracted from both sides first. Variances and covariances do not change, but the
    difference between the mean of the squares and the square of the mean keeps more of float32's digits.
    """

    def __init__(self, truth: Tensor) -> None:
        """Prepare the truth, float RGB (B, 3, H, W), in [0, 1]."""
        with full_precision():
            self._truth = [_TruthPlanes(planes) for planes in _split_planes(truth)]

    def score(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compare float RGB images (B, 3, H, W), in [0, 1], to the truth.

        Returns:
            SSIM and MS-SSIM, (B,) each, at most 1; MS-SSIM is NaN if a side is below MS_SSIM_MIN_SIZE.
        """
        with full_precision():
            parts = zip(self._truth, _split_planes(images), strict=True)
            factors = torch.cat([truth.compare(planes) for truth, planes in parts], dim=1)
        ssim, *scales = factors.unflatten(1, (-1, 3)).mean(dim=2)
        if not scales:
            return ssim, torch.full_like(ssim, math.nan)
        powers = [scale.relu() ** weight for scale, weight in zip(scales, _MS_SSIM_WEIGHTS, strict=True)]
        return ssim, torch.stack(powers).prod(dim=0)


def colorfulness(images: Tensor) -> Tensor:
    """Compute the colorfulness of float RGB images (B, 3, H, W), in [0, 1]: (B,), 0 for gray, about 30 for photos.

    M3 of Hasler and Suesstrunk (2003): sqrt(sigma_rg^2 + sigma_yb^2) + 0.3 sqrt(mu_rg^2 + mu_yb^2) of the signed
    opponents rg = R - G and yb = (R + G) / 2 - B, on values from 0 to 255.
    """
    r, g, b = images.float().flatten(2).unbind(1)  # (B, H * W)
    opponents = torch.stack([r - g, (r + g) / 2 - b], dim=1)  # (B, 2, H * W)
    means = opponents.mean(dim=2, keepdim=True)
    variances = (opponents - means).square().mean(dim=2)  # torch.var takes six times as long
    return 255 * (variances.sum(dim=1).sqrt() + 0.3 * means.square().sum(dim=(1, 2)).sqrt())


def ab_l1(fake_ab: Tensor, real_ab: Tensor) -> Tensor:
    """Average |fake_ab - real_ab|, of (B, 2, H, W) in [-1, 1], per image: (B,), in CIELAB units."""
    return denormalize_ab(fake_ab.float() - real_ab.float()).abs().mean(dim=(1, 2, 3))


def mean_score(values: Tensor) -> float:
    """Average values (N,) over the images, without the infinite ones (PSNR of an image equal to the truth).

    Returns:
        inf if all values are infinite; NaN if there are none or one of them is NaN.
    """
    finite = values[~values.isposinf()]
    return math.inf if len(values) and not len(finite) else finite.double().mean().item()
