"""What `benchmarks.ablate` says of a generator: the report's measures, and those of a whole set's colors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from calculate_metrics import grayscale, predict_at, stack
from config import MetricsConfig
from utils import metrics
from utils.evaluation import load_square
from utils.lab import denormalize_ab, fit_gamut, lab_to_rgb, lightness, normalize_l, rgb_to_lab, to_uint8

BINS = 32  # of a and of b, over [-100, 100]
GRAY_CHROMA = 4.0  # CIELAB units: an image of a lower mean looks gray
FACTORS = (0.5, 0.7, 0.85, 1.2, 1.5, 1.9, 2.4)  # on ab
SHARE = 0.7
REC_601 = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)  # luma of video, and of most software


def ab_histogram(ab: Tensor) -> Tensor:
    """Count the pixels of ab (B, 2, H, W), in CIELAB units, in BINS x BINS bins."""
    bins = ((ab + 100) * (BINS / 200)).long().clamp(0, BINS - 1)
    return torch.bincount((bins[:, 0] * BINS + bins[:, 1]).flatten(), minlength=BINS * BINS).double()


def gain_at_share(shares: Sequence[float], gains: Sequence[float], share: float = SHARE) -> float:
    """Interpolate the PSNR gain at a share of the truth's colorfulness; NaN where none of the points has as much."""
    points = sorted(zip(shares, gains, strict=True))
    return float(np.interp(share, *zip(*points, strict=True), right=float("nan")))


@torch.inference_mode()
def score(generator: nn.Module, size: int, images: Sequence[Path], device: torch.device) -> dict[str, float]:
    """Score a generator by the protocol of `calculate_metrics.py`, on images that have color.

    Args:
        generator: maps L (B, 1, S, S) to ab (B, 2, S, S), both in [-1, 1]; on `device`, in eval mode.
        size: S, at which it was trained.
        images: the truth.
        device: where to compute.

    Returns:
        "psnr" and "psnr_gain" (over the grayscale image) in dB, "ssim", "ms_ssim", "colorfulness", its
        "colorfulness_share" of the truth's, "histogram_distance" (total variation between the ab histograms of the
        two sets, in [0, 1]), "nearly_gray" (share of images with a mean chroma below GRAY_CHROMA), "rec_601_gain"
        (the PSNR gain of the ab that follow from a gray image of other weights than LAB's), and "gain_at_70" (that
        of all ab times the factor that gives SHARE of the truth's colorfulness: it compares pale and colorful
        recipes).
    """
    cfg = MetricsConfig()
    columns, scaled = [], []
    histograms = torch.zeros(2, BINS * BINS, dtype=torch.float64)
    for start in range(0, len(images), cfg.batch_size):
        squares = [load_square(path, cfg) for path in images[start : start + cfg.batch_size]]
        squares = [square for square in squares if not isinstance(square, str)]
        truth = stack(squares, device).float() / 255  # (B, 3, S, S)
        l = torch.stack([lightness(square) for square in squares]).to(device)  # (B, 1, S, S)
        predicted = denormalize_ab(predict_at(generator, size, normalize_l(l)).float())  # (B, 2, S, S)

        def color(ab: Tensor, l: Tensor = l) -> tuple[Tensor, Tensor]:
            lab = fit_gamut(torch.cat([l, ab], dim=1))
            return lab[:, 1:], to_uint8(lab_to_rgb(lab)).float() / 255

        ab, fake = color(predicted)
        other_l = rgb_to_lab((truth * REC_601).sum(dim=1, keepdim=True).expand_as(truth))[:, :1]
        other_ab = denormalize_ab(predict_at(generator, size, normalize_l(other_l)).float())
        gray = metrics.psnr(grayscale(l).float() / 255, truth)
        chroma = ab.square().sum(dim=1).sqrt().mean(dim=(1, 2))
        similarity = metrics.StructuralSimilarity(truth).score(fake)
        colors = metrics.colorfulness(fake), metrics.colorfulness(truth)
        from_rec_601 = metrics.psnr(color(other_ab)[1], truth)
        row = [metrics.psnr(fake, truth), gray, *similarity, *colors, chroma, from_rec_601]
        columns.append(torch.stack(row).cpu())
        for factor in FACTORS:
            _, other = color(factor * predicted)
            scaled.append(torch.stack([metrics.psnr(other, truth) - gray, metrics.colorfulness(other)]).cpu())
        histograms += torch.stack([ab_histogram(rgb_to_lab(truth)[:, 1:]), ab_histogram(ab)]).cpu()
    table = torch.cat(columns, dim=1)  # (8, N)
    colored = table[5] > 0  # a gray truth says nothing of color
    table = table[:, colored]
    psnr, gray, ssim, ms_ssim, fake_color, true_color, _, rec_601 = table.mean(dim=1).tolist()
    series = [torch.cat(scaled[i :: len(FACTORS)], dim=1)[:, colored].mean(dim=1) for i in range(len(FACTORS))]
    gains = [psnr - gray, *(gain.item() for gain, _ in series)]
    shares = [fake_color / true_color, *(other.item() / true_color for _, other in series)]
    real, fake = histograms / histograms.sum(dim=1, keepdim=True)
    return {
        "psnr": psnr,
        "psnr_gain": psnr - gray,
        "ssim": ssim,
        "ms_ssim": ms_ssim,
        "colorfulness": fake_color,
        "colorfulness_share": fake_color / true_color,
        "histogram_distance": (real - fake).abs().sum().item() / 2,
        "nearly_gray": (table[6] < GRAY_CHROMA).float().mean().item(),
        "rec_601_gain": rec_601 - gray,
        "gain_at_70": gain_at_share(shares, gains),
    }
