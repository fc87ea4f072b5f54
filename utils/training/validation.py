"""Scores of a generator on the held-out images after an epoch. Uses the image metrics of `utils.report`."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from utils.lab import decode_lab, network_to_rgb, to_uint8
from utils.report.metrics import ab_l1, colorfulness, mean_score, psnr
from utils.run import autocast


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
