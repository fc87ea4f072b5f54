"""Image quality: PSNR, SSIM, MS-SSIM, colorfulness, the L1 distance of ab, and the Frechet Inception distance.

The measures of images take float RGB, (B, 3, H, W) in [0, 1], and give one value an image, (B,), so that no result
depends on how images were batched.
"""

from __future__ import annotations

import http.client
import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from utils.checkpoint import read_tensors
from utils.lab import decode_lab, denormalize_ab, network_to_rgb, to_uint8
from utils.run import UserError, autocast, gather, is_main_of_machine, say

if TYPE_CHECKING:  # torchmetrics and torch-fidelity take seconds to import, and FID alone needs them
    from torchmetrics.image.fid import FrechetInceptionDistance

MS_SSIM_MIN_SIZE = 176  # the window of 11 pixels must fit in the fifth scale
_MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_C1, _C2 = 0.01**2, 0.03**2
_REACH = 5  # pixels from the center of the window to its edge
_WINDOW = torch.exp(torch.arange(-_REACH, _REACH + 1, dtype=torch.float64).square() / (-2 * 1.5**2))
_WINDOW /= _WINDOW.sum()
_CPU_PLANES = 16  # worked on together: of 256 x 256 pixels, those that a processor's cache holds
FID_COLUMN = "FID"
STAND_IN_COLUMN = "FD (random stand-in)"
_STATISTICS = ("sum", "cov_sum", "num_samples")  # of features, as FrechetInceptionDistance names them


def full_precision() -> AbstractContextManager[None]:
    """Keep convolutions in float32: TF32 has 10 bits, and SSIM subtracts nearly equal second moments."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=torch.backends.cudnn.benchmark, allow_tf32=False)


def psnr(images: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio over the three channels, in dB, for a peak of 1; inf for an equal image."""
    return -10 * (images - truth).square().mean(dim=(1, 2, 3)).log10()


def _split_planes(images: Tensor) -> list[Tensor]:
    """Make the channels of images (B, 3, H, W) channels of one image, (1, P, H, W): all at once, but on a CPU few.

    There they lie side by side for each pixel, which is the order in which its convolutions are fast.
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
    """Halve planes (1, P, H, W) from scale to scale, the first alone where they are too small for five.

    The first and the last, whose SSIM is the mean over the whole image, are given mirrored borders.
    """
    count = len(_MS_SSIM_WEIGHTS) if min(planes.shape[-2:]) >= MS_SSIM_MIN_SIZE else 1
    for scale in range(count):
        planes = F.avg_pool2d(planes, 2) if scale else planes
        yield F.pad(planes, [_REACH] * 4, mode="reflect") if scale in (0, count - 1) else planes


class _TruthScale:
    """What SSIM needs of true planes y, less their means, at one scale.

    2y; of its windows 2 mu and contrast = sigma^2 + C2; with the means added back 2 level and
    luminance = level^2 + C1.
    """

    def __init__(self, planes: Tensor, means: Tensor) -> None:
        """Take in y, (1, P, H, W), and the means that were subtracted, (1, P, 1, 1)."""
        mu = _window_mean(planes)
        variance = _window_mean(planes * planes).addcmul_(mu, mu, value=-1).clamp_(min=0)
        level = mu + means
        self.twice_y, self.twice_mu, self.twice_level = 2 * planes, 2 * mu, 2 * level
        self.luminance, self.contrast = level.square_().add_(_C1), variance.add_(_C2)


class _TruthPlanes:
    """Some planes of the truth, to which planes of images are compared."""

    def __init__(self, planes: Tensor) -> None:
        self._means = planes.mean(dim=(2, 3), keepdim=True)  # (1, P, 1, 1)
        self._scales = [_TruthScale(scale, self._means) for scale in _scales(planes - self._means)]

    def compare(self, planes: Tensor) -> Tensor:
        """Give the factors of the measures, (1 or 6, P): SSIM, and those of MS-SSIM from scale to scale."""
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
    """SSIM and MS-SSIM of several sets of images to one truth, for which its windows are computed once.

    Both as torchmetrics computes them, the mean of the three channels. SSIM, Wang et al. 2004: Gaussian window of
    11 x 11 pixels and sigma 1.5, K1 = 0.01, K2 = 0.03; the mean is over the whole image with mirrored borders
    (scikit-image's leaves out a frame of 5 pixels). MS-SSIM, Wang et al. 2003: five scales with the paper's weights,
    of which the first four leave that frame out; a negative factor counts as 0.

    The mean of each true plane is subtracted from both sides. No variance or covariance notices, but computed as the
    mean of the squares less the square of the mean, each then loses fewer of float32's digits.
    """

    def __init__(self, truth: Tensor) -> None:
        """Take in the truth, float RGB (B, 3, H, W), in [0, 1]."""
        with full_precision():
            self._truth = [_TruthPlanes(planes) for planes in _split_planes(truth)]

    def score(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compare images (B, 3, H, W) to the truth: SSIM and MS-SSIM, (B,); NaN for a side below MS_SSIM_MIN_SIZE."""
        with full_precision():
            parts = zip(self._truth, _split_planes(images), strict=True)
            factors = torch.cat([truth.compare(planes) for truth, planes in parts], dim=1)
        ssim, *scales = factors.unflatten(1, (-1, 3)).mean(dim=2)
        if not scales:
            return ssim, torch.full_like(ssim, math.nan)
        powers = [scale.relu() ** weight for scale, weight in zip(scales, _MS_SSIM_WEIGHTS, strict=True)]
        return ssim, torch.stack(powers).prod(dim=0)


def colorfulness(images: Tensor) -> Tensor:
    """Colorfulness M3 of Hasler and Suesstrunk (2003), on 0..255 values: 0 for gray, about 30 for a photograph.

    sqrt(sigma_rg^2 + sigma_yb^2) + 0.3 sqrt(mu_rg^2 + mu_yb^2), with the signed opponents rg = R - G and
    yb = (R + G) / 2 - B.
    """
    r, g, b = images.float().flatten(2).unbind(1)  # (B, H * W)
    opponents = torch.stack([r - g, (r + g) / 2 - b], dim=1)  # (B, 2, H * W)
    means = opponents.mean(dim=2, keepdim=True)
    variances = (opponents - means).square().mean(dim=2)  # torch.var takes six times as long
    return 255 * (variances.sum(dim=1).sqrt() + 0.3 * means.square().sum(dim=(1, 2)).sqrt())


def ab_l1(fake_ab: Tensor, real_ab: Tensor) -> Tensor:
    """Mean absolute difference, in CIELAB units, of ab as the networks see it: (B, 2, H, W) in [-1, 1]."""
    return denormalize_ab(fake_ab.float() - real_ab.float()).abs().mean(dim=(1, 2, 3))


def mean_score(values: Tensor) -> float:
    """Average the values of images, leaving out infinite ones: a PSNR of inf is an image equal to the truth.

    Returns:
        inf when every value is infinite, NaN when there is none or one of them is NaN.
    """
    finite = values[~values.isposinf()]
    return math.inf if len(values) and not len(finite) else finite.double().mean().item()


@torch.inference_mode()
def validate(
    generator: nn.Module, loader: Iterable[tuple[Tensor, Tensor]], device: torch.device, dtype: torch.dtype | None
) -> dict[str, float]:
    """Score a generator on held-out samples, in eval mode; its own mode is restored after.

    Args:
        generator: maps L (B, 1, H, W) to ab (B, 2, H, W), both in [-1, 1].
        loader: batches of uint8 (L, ab), as `utils.lab.encode_lab` stores them.
        device: where to compute.
        dtype: mixed-precision type for the generator, or None.

    Returns:
        Means over the images whose truth has color, on colors rounded to 8 bits: "psnr" and "psnr_gray" (of ab = 0)
        in dB, "l1_ab" in CIELAB units, "colorfulness" and "colorfulness_truth". NaN where there is no such image.
    """
    names = ("psnr", "psnr_gray", "l1_ab", "colorfulness", "colorfulness_truth")
    scores = torch.empty(0, len(names))
    was_training = generator.training
    generator.eval()
    try:
        for stored_l, stored_ab in loader:
            l, real_ab = decode_lab(stored_l.to(device, non_blocking=True), stored_ab.to(device, non_blocking=True))
            with autocast(device, dtype):
                fake_ab = generator(l)
            fake, gray, truth = (
                to_uint8(network_to_rgb(l, ab)).float() / 255 for ab in (fake_ab, torch.zeros_like(real_ab), real_ab)
            )
            quality = (psnr(fake, truth), psnr(gray, truth), ab_l1(fake_ab, real_ab))
            batch = torch.stack([*quality, colorfulness(fake), colorfulness(truth)], dim=1)  # (B, 5)
            scores = torch.cat([scores, batch.cpu()])
    finally:
        generator.train(was_training)
    scores = scores[scores[:, 1].isfinite()]  # a gray truth equals its grayscale: it says nothing of color
    return {name: mean_score(column) for name, column in zip(names, scores.unbind(1), strict=True)}


class RandomFeatures(nn.Module):
    """A stand-in for Inception: channel means of three convolutions with fixed random weights.

    Distances between its features say nothing about how an image looks; they show that the code runs.
    """

    widths = (3, 32, 64, 128)
    num_features = sum(widths[1:])

    def __init__(self) -> None:
        super().__init__()
        source = torch.Generator().manual_seed(0)
        for i, (inputs, outputs) in enumerate(pairwise(self.widths)):
            weight = torch.randn(outputs, inputs, 3, 3, generator=source) * math.sqrt(2 / (9 * inputs))
            self.register_buffer(f"weight{i}", weight)

    def forward(self, images: Tensor) -> Tensor:
        """Map uint8 RGB (B, 3, H, W) to features (B, num_features)."""
        x, features = images.float() / 255 * 2 - 1, []
        for weight in self.buffers():
            x = F.relu(F.conv2d(x, weight, stride=2, padding=1))
            features.append(x.mean(dim=(2, 3)))
        return torch.cat(features, dim=1)


class FID:
    """Frechet distances (Heusel et al. 2017, arXiv:1706.08500) of several sets of images to one truth.

    `network` maps uint8 RGB (B, 3, H, W) to (B, network.num_features), once for each image of the truth and of a
    set. `column` is the name under which the numbers may be shown.
    """

    def __init__(self, network: nn.Module, column: str, device: torch.device) -> None:
        self.column = column
        self._device = torch.device("cpu") if device.type == "mps" else device  # MPS has no float64
        self.network = network
        self._truth = self._metric()
        self._sets: dict[str, FrechetInceptionDistance] = {}

    def _metric(self) -> FrechetInceptionDistance:
        from torchmetrics.image.fid import FrechetInceptionDistance

        return FrechetInceptionDistance(feature=self.network, sync_on_compute=False).to(self._device)

    def _set(self, name: str) -> FrechetInceptionDistance:
        if name not in self._sets:
            self._sets[name] = self._metric()
        return self._sets[name]

    @torch.inference_mode()
    def add_truth(self, images: Tensor) -> None:
        """Take in true images, (B, 3, H, W) uint8."""
        with full_precision():
            self._truth.update(images.to(self._device), real=True)

    @torch.inference_mode()
    def add(self, name: str, images: Tensor) -> None:
        """Take in images of the set `name`, (B, 3, H, W) uint8."""
        with full_precision():
            self._set(name).update(images.to(self._device), real=False)

    @torch.inference_mode()
    def merge(self, names: Iterable[str]) -> None:
        """Add up what the processes took in; each must call this with the same names of sets."""
        if not dist.is_initialized():
            return
        for metric, side in [(self._truth, "real"), *((self._set(name), "fake") for name in names)]:
            for statistic in _STATISTICS:
                dist.all_reduce(getattr(metric, f"{side}_features_{statistic}"))
            metric.orig_dtype = torch.float32  # of the features: a process that saw no image does not know it

    def score(self, name: str | None) -> float:
        """Give the distance to the truth of a set, or of the truth itself for None; NaN below two images."""
        metric, side = (self._truth, "fake") if name is None else (self._sets.get(name), "real")
        if metric is None:
            return math.nan
        for statistic in _STATISTICS:
            setattr(metric, f"{side}_features_{statistic}", getattr(self._truth, f"real_features_{statistic}"))
        if min(metric.real_features_num_samples, metric.fake_features_num_samples) < 2:
            return math.nan
        return max(0.0, metric.compute().item())  # rounding can leave a tiny negative number for equal sets


def load_fid(weights: str, device: torch.device) -> FID | None:
    """Set up the Frechet distance.

    Args:
        weights: "download" (torch-fidelity's Inception weights, kept in torch's own cache), a file with them,
            "stand-in" (`RandomFeatures`), "download-or-stand-in", or "none".
        device: where to compute.

    Returns:
        None for "none", and when the weights cannot be downloaded, which one line says.

    Raises:
        UserError: the file is missing or holds something else.
    """
    if weights == "none":
        return None
    path = _download_inception() if weights in ("download", "download-or-stand-in") else Path(weights)
    if weights == "stand-in" or (path is None and weights == "download-or-stand-in"):
        return FID(RandomFeatures(), STAND_IN_COLUMN, device)
    return None if path is None else FID(_load_inception(path), FID_COLUMN, device)


def _download_inception() -> Path | None:
    """Fetch torch-fidelity's weights to where torch-fidelity keeps them, or say in one line why not."""
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    path = Path(torch.hub.get_dir(), "checkpoints", URL_INCEPTION_V3.rpartition("/")[2])
    problem = ""
    if is_main_of_machine():
        try:
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), path.stem.rpartition("-")[2])
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            problem = str(error) or type(error).__name__
    problems = list(filter(None, gather(problem)))
    if problems:
        say(f"no FID: Inception weights cannot be downloaded ({problems[0]}); --inception-weights FILE names a copy")
    return None if problems else path


def _load_inception(path: Path) -> nn.Module:
    """Open torch-fidelity's Inception with 2048 features."""
    if not path.is_file():
        raise UserError(f"{path}: no such file of Inception weights")
    from torchmetrics.image.fid import FrechetInceptionDistance

    try:
        # torch-fidelity unpickles the file without restrictions; one that passes here holds only tensors.
        read_tensors(path)
        network = FrechetInceptionDistance(feature=2048, feature_extractor_weights_path=str(path)).inception
    except Exception as error:  # a foreign file can fail to load in any way
        raise UserError(f"{path}: not torch-fidelity's Inception weights ({type(error).__name__})") from None
    network.num_features = 2048
    return network
