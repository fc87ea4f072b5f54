from __future__ import annotations

import math

import numpy as np
import pytest
import skimage.data
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor, nn
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
)
from torchmetrics.image import PeakSignalNoiseRatio

from utils.report.metrics import MS_SSIM_MIN_SIZE, StructuralSimilarity, ab_l1, colorfulness, mean_score, psnr

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def photos() -> tuple[Tensor, Tensor]:
    """Three photographs, (3, 3, 176, 176) in [0, 1], and the same with less color and some noise."""
    crops = [
        skimage.data.astronaut()[:176, 100:276],
        skimage.data.chelsea()[:176, :176],
        skimage.data.coffee()[:176, :176],
    ]
    truth = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2) / 255
    gray = truth.mean(dim=1, keepdim=True)
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    strength = torch.tensor([0.3, 0.6, 0.9]).reshape(3, 1, 1, 1)
    return truth + strength * (gray - truth) + 0.02 * noise, truth


def to_hwc(image: Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).double().numpy()


def test_psnr_of_constant_difference() -> None:
    # MSE = d^2, so PSNR = -20 log10 d: 20 dB for 0.1, 40 dB for 0.01, and each image has its own.
    truth = torch.full((2, 3, 8, 8), 0.5)
    images = truth + torch.tensor([0.1, 0.01]).reshape(2, 1, 1, 1)
    assert psnr(images, truth).tolist() == pytest.approx([20, 40], abs=1e-3)


def test_psnr_of_equal_images_is_infinite() -> None:
    truth = torch.rand(2, 3, 8, 8)
    assert psnr(truth, truth).tolist() == [math.inf, math.inf]


def test_psnr_agrees_with_skimage_and_torchmetrics(photos: tuple[Tensor, Tensor]) -> None:
    images, truth = photos
    for value, image, true in zip(psnr(images, truth), images, truth, strict=True):
        assert float(value) == pytest.approx(
            peak_signal_noise_ratio(to_hwc(true), to_hwc(image), data_range=1.0), abs=1e-4
        )
        assert float(value) == pytest.approx(float(PeakSignalNoiseRatio(data_range=1.0)(image, true)), abs=1e-4)


def similarity(images: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    return StructuralSimilarity(truth).score(images)


def torchmetrics_similarity(images: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """SSIM and MS-SSIM of each image."""
    settings = {"data_range": 1.0, "reduction": "none"}
    ssim = structural_similarity_index_measure(images, truth, **settings)
    if min(images.shape[2:]) < MS_SSIM_MIN_SIZE:
        return ssim, torch.full_like(ssim, math.nan)
    return ssim, multiscale_structural_similarity_index_measure(images, truth, **settings)


def corner(image: np.ndarray, height: int, width: int) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image[:height, :width])).permute(2, 0, 1) / 255


@pytest.mark.parametrize("size", [(256, 256), (177, 251), (175, 200), (16, 17)])
def test_structural_similarity_agrees_with_torchmetrics(size: tuple[int, int]) -> None:
    photo, other = corner(skimage.data.astronaut(), *size), corner(skimage.data.coffee(), *size)
    noise = torch.rand(photo.shape, generator=torch.Generator().manual_seed(0))
    images, truth = torch.stack([other, 0.9 * photo + 0.1 * noise, 1 - photo]), torch.stack([photo] * 3)
    for values, expected in zip(similarity(images, truth), torchmetrics_similarity(images, truth), strict=True):
        torch.testing.assert_close(values, expected, atol=1e-5, rtol=0, equal_nan=True)


@pytest.mark.parametrize(("size", "count"), [((176, 176), 3), ((17, 16), 9)], ids=["few large", "all small"])
def test_structural_similarity_is_exact_where_float32_loses_digits(size: tuple[int, int], count: int) -> None:
    # torchmetrics itself, in float32, is off by up to 3e-4 here.
    photo = corner(skimage.data.chelsea(), *size)
    white, squares = torch.ones_like(photo), torch.zeros_like(photo)
    squares[:, ::2, ::2] = squares[:, 1::2, 1::2] = 1
    pairs = [
        *((white - squares / 255, white), (white / 3, white / 3), (white / 2, photo), (photo, white), (photo, photo)),
        *((squares, 1 - squares), (white, 0 * white), (0 * white, 0 * white), (white / 2, white / 4)),
    ]
    images, truth = (
        torch.stack(side) for side in zip(*pairs[:count], strict=True)
    )  # in float64 torchmetrics is slow
    expected = torchmetrics_similarity(images.double(), truth.double())
    for values, exact in zip(similarity(images, truth), expected, strict=True):
        assert values.dtype == torch.float32
        torch.testing.assert_close(values.double(), exact, atol=2e-6, rtol=0, equal_nan=True)


def test_ssim_agrees_with_skimage(photos: tuple[Tensor, Tensor]) -> None:
    # The two treat the border differently, so the photographs get a frame on which both see a constant.
    images, truth = (nn.functional.pad(side, (16, 16, 16, 16), value=0.5) for side in photos)
    for value, image, true in zip(similarity(images, truth)[0], images, truth, strict=True):
        _, expected = structural_similarity(
            to_hwc(true), to_hwc(image), data_range=1.0, channel_axis=2, full=True,
            gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        )  # fmt: skip
        assert float(value) == pytest.approx(expected.mean(), abs=1e-5)


def test_ssim_of_constant_images() -> None:
    # No variance: SSIM is its luminance term (2xy + c1) / (x^2 + y^2 + c1), c1 = 0.01^2; here x = 0.5, y = 0.25.
    values, _ = similarity(torch.full((1, 3, 16, 16), 0.5), torch.full((1, 3, 16, 16), 0.25))
    assert float(values) == pytest.approx((2 * 0.125 + 1e-4) / (0.25 + 0.0625 + 1e-4), abs=1e-5)


def test_ms_ssim_of_small_images_is_nan() -> None:
    assert similarity(torch.rand(2, 3, 175, 200), torch.rand(2, 3, 175, 200))[1].isnan().tolist() == [True, True]
    assert float(similarity(torch.ones(1, 3, 176, 176), torch.ones(1, 3, 176, 176))[1]) == pytest.approx(1)


@pytest.mark.parametrize(
    "measure",
    [psnr, lambda *sides: similarity(*sides)[0], lambda *sides: similarity(*sides)[1]],
    ids=["psnr", "ssim", "ms_ssim"],
)
def test_measures_do_not_depend_on_batching(photos: tuple[Tensor, Tensor], measure) -> None:
    images, truth = (side.repeat(3, 1, 1, 1) for side in photos)  # 27 planes: more than a CPU takes at once
    one_by_one = torch.cat([measure(images[i : i + 1], truth[i : i + 1]) for i in range(3)])
    assert measure(images, truth).shape == (9,)
    torch.testing.assert_close(measure(images, truth), one_by_one.repeat(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(measure(images[[2, 0]], truth[[2, 0]]), one_by_one[[2, 0]], atol=1e-5, rtol=0)


def test_structural_similarity_serves_several_sets_and_changes_no_image(photos: tuple[Tensor, Tensor]) -> None:
    images, truth = photos
    kept = [side.clone() for side in photos]
    compared = StructuralSimilarity(truth)
    first = compared.score(images)
    torch.testing.assert_close(compared.score(truth), (torch.ones(3), torch.ones(3)), atol=1e-6, rtol=0)
    torch.testing.assert_close(compared.score(images), first, atol=0, rtol=0)
    assert all(map(torch.equal, photos, kept))


def pixels(*colors: tuple[int, int, int]) -> Tensor:
    return torch.tensor(colors, dtype=torch.float32).T.reshape(1, 3, 1, -1) / 255


def test_colorfulness_of_two_pixels() -> None:
    # Red and black: rg = 255, 0 and yb = 127.5, 0; means and deviations 127.5 and 63.75,
    # M3 = 1.3 sqrt(127.5^2 + 63.75^2).
    expected = 1.3 * math.hypot(127.5, 63.75)
    assert float(colorfulness(pixels((255, 0, 0), (0, 0, 0)))) == pytest.approx(expected, rel=1e-5)


def test_colorfulness_uses_signed_differences() -> None:
    # Red and green: rg = 255, -255 (mean 0, deviation 255; unsigned it would be 255 and 0), yb = 127.5 twice.
    assert float(colorfulness(pixels((255, 0, 0), (0, 255, 0)))) == pytest.approx(255 + 0.3 * 127.5, rel=1e-5)
    # Blue and yellow: rg = 0, yb = -255, 255.
    assert float(colorfulness(pixels((0, 0, 255), (255, 255, 0)))) == pytest.approx(255, rel=1e-5)


def test_colorfulness_of_gray_is_zero_for_each_image() -> None:
    gray = torch.rand(1, 1, 8, 8).expand(1, 3, 8, 8)
    values = colorfulness(torch.cat([gray, torch.rand(1, 3, 8, 8)]))
    assert values[0] == pytest.approx(0, abs=1e-4) and values[1] > 10


def test_ab_l1_is_in_lab_units() -> None:
    # A tenth of the networks' range is 11 units; a and b are averaged.
    real = torch.zeros(2, 2, 4, 4)
    fake = real.clone()
    fake[0, 0] += 0.1
    fake[1] -= 0.1
    assert ab_l1(fake, real).tolist() == pytest.approx([5.5, 11], rel=1e-5)


def test_mean_score_leaves_out_infinite_values() -> None:
    assert mean_score(torch.tensor([20.0, math.inf, 30.0])) == 25
    assert mean_score(torch.tensor([math.inf, math.inf])) == math.inf
    assert math.isnan(mean_score(torch.tensor([])))
    assert math.isnan(mean_score(torch.tensor([20.0, math.nan])))
