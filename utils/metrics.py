"""Image quality: PSNR, SSIM, MS-SSIM, colorfulness, the L1 distance of ab, and the Frechet Inception distance.

The measures of images take float RGB, (B, 3, H, W) in [0, 1], and give one value an image, (B,), so that no result
depends on how images were batched.
"""

from __future__ import annotations

import http.client
import math
from collections.abc import Iterable
from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)
from torchmetrics.image.fid import FrechetInceptionDistance

from utils.lab import decode_lab, denormalize_ab, network_to_rgb, to_uint8
from utils.run import UserError, autocast, say

MS_SSIM_MIN_SIZE = 176  # the window of 11 pixels must fit in the fifth scale
_SSIM = {"sigma": 1.5, "kernel_size": 11, "data_range": 1.0, "reduction": "none"}
FID_COLUMN = "FID"
STAND_IN_COLUMN = "FD (random stand-in)"


def _full_precision() -> AbstractContextManager[None]:
    """Keep convolutions in float32: TF32 has 10 bits, and SSIM subtracts nearly equal second moments."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=torch.backends.cudnn.benchmark, allow_tf32=False)


def _channels_last(*images: Tensor) -> list[Tensor]:
    """Lay the channels of a pixel side by side: three times as fast for the windows of SSIM on a CPU."""
    return [image.contiguous(memory_format=torch.channels_last) for image in images]


def psnr(images: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio over the three channels, in dB, for a peak of 1; inf for an equal image."""
    return peak_signal_noise_ratio(images, truth, data_range=1.0, reduction="none", dim=(1, 2, 3))


def ssim(images: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity, the mean of the three channels, as torchmetrics computes it.

    Wang et al. 2004: Gaussian window of 11 x 11 pixels and sigma 1.5, K1 = 0.01, K2 = 0.03. The mean is over the
    whole image with mirrored borders; scikit-image's mean leaves out a frame of 5 pixels.
    """
    with _full_precision():
        return structural_similarity_index_measure(*_channels_last(images, truth), **_SSIM).reshape(-1)


def ms_ssim(images: Tensor, truth: Tensor) -> Tensor:
    """Multi-scale structural similarity, as torchmetrics computes it; NaN for a side below MS_SSIM_MIN_SIZE.

    Wang et al. 2003: five scales with the paper's weights, and the window of `ssim`.
    """
    if min(images.shape[-2:]) < MS_SSIM_MIN_SIZE:
        return torch.full((len(images),), math.nan, device=images.device)
    with _full_precision():
        return multiscale_structural_similarity_index_measure(*_channels_last(images, truth), **_SSIM).reshape(-1)


def colorfulness(images: Tensor) -> Tensor:
    """Colorfulness M3 of Hasler and Suesstrunk (2003), on 0..255 values: 0 for gray, about 30 for a photograph.

    sqrt(sigma_rg^2 + sigma_yb^2) + 0.3 sqrt(mu_rg^2 + mu_yb^2), with the signed opponents rg = R - G and
    yb = (R + G) / 2 - B.
    """
    r, g, b = (images.float() * 255).flatten(2).unbind(1)  # (B, H * W)
    opponents = torch.stack([r - g, (r + g) / 2 - b], dim=1)  # (B, 2, H * W)
    variances, means = opponents.var(dim=2, correction=0), opponents.mean(dim=2)
    return variances.sum(dim=1).sqrt() + 0.3 * means.square().sum(dim=1).sqrt()


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
        return FrechetInceptionDistance(feature=self.network).to(self._device)

    @torch.inference_mode()
    def add_truth(self, images: Tensor) -> None:
        """Take in true images, (B, 3, H, W) uint8."""
        with _full_precision():
            self._truth.update(images.to(self._device), real=True)

    @torch.inference_mode()
    def add(self, name: str, images: Tensor) -> None:
        """Take in images of the set `name`, (B, 3, H, W) uint8."""
        if name not in self._sets:
            self._sets[name] = self._metric()
        with _full_precision():
            self._sets[name].update(images.to(self._device), real=False)

    def score(self, name: str | None) -> float:
        """Give the distance to the truth of a set, or of the truth itself for None; NaN below two images."""
        metric, side = (self._truth, "fake") if name is None else (self._sets.get(name), "real")
        if metric is None:
            return math.nan
        for statistic in ("sum", "cov_sum", "num_samples"):
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
    path = Path(torch.hub.get_dir(), "checkpoints", URL_INCEPTION_V3.rpartition("/")[2])
    try:
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), hash_prefix=path.stem.rpartition("-")[2])
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        say(f"no FID: Inception weights cannot be downloaded ({error}); --inception-weights FILE names a copy")
        return None
    return path


def _load_inception(path: Path) -> nn.Module:
    """Open torch-fidelity's Inception with 2048 features."""
    if not path.is_file():
        raise UserError(f"{path}: no such file of Inception weights")
    try:
        # torch-fidelity unpickles the file without restrictions; one that passes here holds only tensors.
        torch.load(path, map_location="cpu", weights_only=True)
        network = FrechetInceptionDistance(feature=2048, feature_extractor_weights_path=str(path)).inception
    except Exception as error:  # a foreign file can fail to load in any way
        raise UserError(f"{path}: not torch-fidelity's Inception weights ({type(error).__name__})") from None
    network.num_features = 2048
    return network
