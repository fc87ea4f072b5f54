from __future__ import annotations

import math

import numpy as np
import pytest
import skimage.data
import torch
from skimage.metrics import peak_signal_noise_ratio
from torch import Tensor, nn

from utils.lab import decode_lab, encode_lab, network_to_rgb, to_uint8
from utils.report.metrics import colorfulness
from utils.training.validation import validate

CPU = torch.device("cpu")
PHOTOS = [skimage.data.astronaut()[:96, 100:196], skimage.data.chelsea()[:96, :96], skimage.data.coffee()[:96, :96]]


class Recall(nn.Module):
    """A generator that knows the truth, scaled; it also notes its mode."""

    def __init__(self, ab: Tensor, scale: float) -> None:
        super().__init__()
        self.ab, self.scale, self.modes = ab, scale, []

    def forward(self, l: Tensor) -> Tensor:
        self.modes.append(self.training)
        first, self.ab = self.ab[: len(l)], self.ab[len(l) :]
        return self.scale * first


def stored_batches(size: int) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """The photographs and a gray image as uint8 batches, and their ab as the networks see it."""
    images = [*PHOTOS, np.full((96, 96, 3), 99, np.uint8)]
    stored = np.stack([encode_lab(np.ascontiguousarray(image)) for image in images])
    lab = torch.from_numpy(stored).permute(0, 3, 1, 2)
    l, ab = lab[:, :1], lab[:, 1:]
    return list(zip(l.split(size), ab.split(size), strict=True)), decode_lab(l, ab)[1]


def mean_psnr(images: Tensor, truth: Tensor) -> float:
    pairs = zip(images.numpy(), truth.numpy(), strict=True)
    return float(np.mean([peak_signal_noise_ratio(true, image, data_range=1.0) for image, true in pairs]))


@pytest.mark.parametrize("size", [1, 3, 4])
def test_validate_scores_images_with_color(size: int) -> None:
    loader, ab = stored_batches(size)
    generator = Recall(ab, 0.5).train()
    scores = validate(generator, loader, CPU, None)
    assert generator.training and not any(generator.modes)
    l = torch.cat([decode_lab(*batch)[0] for batch in loader])[:3]
    truth, fake, gray = (to_uint8(network_to_rgb(l, scale * ab[:3])) / 255 for scale in (1, 0.5, 0))
    expected = {
        "psnr": mean_psnr(fake, truth),
        "psnr_gray": mean_psnr(gray, truth),
        "l1_ab": 55 * float(ab[:3].abs().mean()),  # half of ab is missing, and 1 is 110 units
        "colorfulness": float(colorfulness(fake).mean()),
        "colorfulness_truth": float(colorfulness(truth).mean()),
    }
    assert scores == pytest.approx(expected, rel=1e-4)
    assert scores["psnr"] > scores["psnr_gray"] + 3


def test_validate_restores_eval_mode_and_takes_mixed_precision() -> None:
    loader, ab = stored_batches(4)
    generator = Recall(ab.bfloat16(), 1.0).eval()
    scores = validate(generator, loader, CPU, torch.bfloat16)
    assert not generator.training
    assert 40 < scores["psnr"] < math.inf, "bfloat16 has 8 bits"


def test_validate_of_gray_images_alone_is_nan() -> None:
    loader, ab = stored_batches(1)
    assert all(map(math.isnan, validate(Recall(ab[3:], 1.0), loader[3:], CPU, None).values()))
