from __future__ import annotations

import numpy as np
import pytest
import skimage.color
import skimage.data
import torch
import torch.nn.functional as F
from coloring_subjects import ALPHA, CPU, PHOTO, PHOTO16, Wild, assert_keeps_lightness, visible_generator
from torch import Tensor, nn

from models_lab import GeneratorUNet
from utils.coloring.colorize import (
    batch_by_shape,
    cast_convolutions,
    colorize,
    comparison,
    merge,
    predict_ab,
    prepare,
    working_shape,
)
from utils.coloring.recolor import fit_levels, recolor
from utils.images import MAX_ASPECT, Picture, shorter_side_shape
from utils.lab import AB_SCALE

SHIFTS = [(0, 90), (20, 80), (40, 90)]  # tops and widths of crops


class Constant(nn.Module):
    """The same color everywhere, in CIELAB units."""

    def __init__(self, a: float, b: float) -> None:
        super().__init__()
        self.ab = torch.tensor([a, b]).view(1, 2, 1, 1) / AB_SCALE

    def forward(self, l: Tensor) -> Tensor:
        return self.ab.expand(l.shape[0], 2, *l.shape[2:])


@pytest.mark.parametrize("shape", [(480, 640), (640, 427), (1, 1), (20, 31), (5000, 700), (3, 24)])
def test_working_shape_is_that_of_training_but_for_half_a_cell(shape: tuple[int, int]) -> None:
    for side, trained in zip(working_shape(*shape, 256), shorter_side_shape(*shape, 256), strict=True):
        assert side % 32 == 0 and abs(side - trained) <= 16


def test_working_shape_bounds_the_longer_side_of_a_strip() -> None:
    assert working_shape(100, 10_000, 256) == (32, 256 * MAX_ASPECT)
    assert working_shape(5000, 1, 256) == (256 * MAX_ASPECT, 32)


def test_prepare_gives_the_lightness_of_lab() -> None:
    photo = PHOTO16[:96, :128]
    lightness = prepare(Picture(photo, None), 96)
    expected = skimage.color.rgb2lab(photo / 65535)[:, :, 0] / 50 - 1
    assert lightness.shape == (1, 96, 128) and lightness.dtype == torch.float32
    np.testing.assert_allclose(lightness[0], expected, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_merge_returns_every_gray_exactly_where_ab_is_zero(dtype: type) -> None:
    levels = np.arange(np.iinfo(dtype).max + 1).astype(dtype).reshape(16, -1)
    gray = np.repeat(levels[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(merge(Picture(gray, None), torch.zeros(2, 3, 3)).rgb, gray)


def test_merge_enlarges_ab_bilinearly() -> None:
    gray = np.full((61, 90, 3), 32768, np.uint16)
    ab = (torch.rand(2, 7, 9, generator=torch.Generator().manual_seed(0)) - 0.5) * 0.3
    lab = skimage.color.rgb2lab(merge(Picture(gray, None), ab).rgb / 65535)
    expected = F.interpolate(ab[None] * AB_SCALE, (61, 90), mode="bilinear", align_corners=False)[0]
    np.testing.assert_allclose(lab[:, :, 1:], expected.permute(1, 2, 0), atol=0.02)


def test_merge_averages_ab_for_an_input_below_the_working_size() -> None:
    gray = np.full((4, 5, 3), 32768, np.uint16)
    checkered = 0.2 * (torch.arange(80)[:, None] // 4 + torch.arange(100) // 4).remainder(2).expand(2, 80, 100)
    lab = skimage.color.rgb2lab(merge(Picture(gray, None), checkered).rgb / 65535)
    np.testing.assert_allclose(lab[:, :, 1:], 0.1 * AB_SCALE, atol=0.5)


@pytest.mark.parametrize("rgb", [PHOTO, PHOTO16], ids=["8-bit", "16-bit"])
def test_merge_fits_colors_as_one_by_one(rgb: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.coloring.colorize.FITTED_PIXELS", 300)  # of about 5,000
    ab = (torch.rand(2, *rgb.shape[:2], generator=torch.Generator().manual_seed(0)) * 2 - 1) * 0.7
    clipped, outside, lab = recolor(rgb, (ab * AB_SCALE).numpy())
    expected = clipped.copy()
    expected.reshape(-1, 3)[outside] = fit_levels(lab, rgb.dtype)
    assert len(outside) > 3000 and np.abs(clipped.astype(int) - expected).max() > np.iinfo(rgb.dtype).max // 25
    difference = np.abs(merge(Picture(rgb, None), ab, strip_pixels=1000).rgb.astype(int) - expected)
    assert difference.max() <= np.iinfo(rgb.dtype).max // 255 and (difference > 0).mean() < 0.02


@pytest.mark.parametrize("rgb", [PHOTO, PHOTO16, PHOTO[:5, :3]], ids=["8-bit", "16-bit", "tiny"])
def test_merge_does_not_depend_on_the_strips(rgb: np.ndarray) -> None:
    ab = torch.rand(2, 33, 50, generator=torch.Generator().manual_seed(0)) * 2 - 1
    whole = merge(Picture(rgb, None), ab, strip_pixels=2**30).rgb.astype(int)
    for strip_pixels in (1, 1000, 4096):
        difference = np.abs(merge(Picture(rgb, None), ab, strip_pixels).rgb - whole)
        # torch computes the last few values of a tensor another way: the last bit of a float can tip a rounding.
        assert difference.max() <= np.iinfo(rgb.dtype).max // 255
        assert (difference > 0).mean() < 1e-3


@pytest.mark.parametrize("rgb", [PHOTO, PHOTO16], ids=["8-bit", "16-bit"])
def test_merge_in_place_by_several_threads_gives_the_same(rgb: np.ndarray) -> None:
    ab = torch.rand(2, 33, 50, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected = merge(Picture(rgb, None), ab).rgb
    framed = np.pad(rgb, ((2, 2), (3, 3), (0, 0)))
    inner = framed[2:-2, 3:-3]
    assert merge(Picture(inner, None), ab, strip_pixels=2000, out=inner, threads=3).rgb is inner
    difference = np.abs(inner.astype(int) - expected)
    assert difference.max() <= np.iinfo(rgb.dtype).max // 255 and (difference > 0).mean() < 1e-3
    assert not framed[:2].any() and not framed[:, -3:].any()


@pytest.mark.parametrize("size", [(100, 151), (1, 1), (1, 90), (97, 2), (41, 41)])
@pytest.mark.parametrize("rgb", [PHOTO, PHOTO16], ids=["8-bit", "16-bit"])
def test_colorize_keeps_size_depth_alpha_and_lightness(rgb: np.ndarray, size: tuple[int, int]) -> None:
    alpha = ALPHA[: size[0], : size[1]].astype(rgb.dtype)
    picture = Picture(np.ascontiguousarray(rgb[: size[0], : size[1]]), alpha)
    colored = colorize(Wild(), picture, 64, CPU)
    assert_keeps_lightness(picture, colored)
    assert colored.alpha is alpha


def test_colorize_keeps_the_lightness_of_gray_in_strong_color() -> None:
    gray = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    for a, b in [(90, 80), (-80, 70), (60, -100), (0, -110), (-110, -110)]:
        colored = colorize(Constant(a, b), Picture(gray, None), 16, CPU)
        assert_keeps_lightness(Picture(gray, None), colored)
        assert colored.has_color


def test_colorize_gives_the_predicted_color() -> None:
    gray = Picture(np.full((20, 30, 3), 30000, np.uint16), None)
    lab = skimage.color.rgb2lab(colorize(Constant(20, -15), gray, 16, CPU).rgb / 65535)
    np.testing.assert_allclose(lab[:, :, 1:], np.broadcast_to([20, -15], (20, 30, 2)), atol=0.02)


def test_colorize_restores_the_mode_of_the_generator() -> None:
    generator = GeneratorUNet(width=4, depth=2).train()
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    colorize(generator, Picture(PHOTO, None), 32, CPU)
    assert generator.training
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())


def test_predict_ab_of_a_batch_equals_one_by_one() -> None:
    generator = visible_generator()
    pictures = [Picture(np.ascontiguousarray(PHOTO[top : top + 60, :width]), None) for top, width in SHIFTS]
    planes = [prepare(picture, 64) for picture in pictures]
    together = predict_ab(generator, planes, CPU)
    assert [ab.shape for ab in together] == [(2, 64, 96)] * 3
    for picture, ab in zip(pictures, together, strict=True):
        alone = colorize(generator, picture, 64, CPU)
        assert alone.has_color and alone.rgb.shape == picture.rgb.shape
        assert np.abs(alone.rgb.astype(int) - merge(picture, ab).rgb).max() <= 1  # float32 sums in another order


def test_predict_ab_in_mixed_precision_gives_nearly_the_same_in_float32() -> None:
    generator, planes = visible_generator(), [prepare(Picture(PHOTO, None), 64)]
    full = predict_ab(generator, planes, CPU)[0]
    mixed = predict_ab(generator, planes, CPU, torch.bfloat16)[0]
    assert mixed.dtype == torch.float32
    assert 0 < (mixed - full).abs().max() < 0.05 * full.abs().max()
    cast_convolutions(generator, torch.bfloat16)
    assert torch.equal(predict_ab(generator, planes, CPU, torch.bfloat16)[0], mixed)


def test_batch_by_shape_puts_together_what_has_one_shape() -> None:
    shapes = [(64, 64), (64, 128), (64, 64), (64, 128), (64, 64), (128, 64)]
    planes = [torch.zeros(1, h, w) for h, w in shapes]
    assert list(batch_by_shape(planes, 2)) == [[0, 2], [4], [1, 3], [5]]
    assert list(batch_by_shape([], 3)) == []


def test_comparison_shows_the_truth_where_there_is_color() -> None:
    colored = Picture(PHOTO[:, ::-1], None)
    row = comparison(Picture(PHOTO, ALPHA), colored)
    assert row.shape == (100, 3 * 151 + 2 * 8, 3) and row.dtype == np.uint8
    assert (row[:, :151] == row[:, :151, :1]).all()
    np.testing.assert_allclose(
        skimage.color.rgb2lab(row[:, :151])[:, :, 0], skimage.color.rgb2lab(PHOTO)[:, :, 0], atol=0.3
    )
    assert (row[:, 151:159] == 255).all()
    np.testing.assert_array_equal(row[:, 159:310], PHOTO[:, ::-1])
    np.testing.assert_array_equal(row[:, 318:], PHOTO)
    gray = Picture(np.repeat(PHOTO16[:, :, :1], 3, axis=2), None)
    assert comparison(gray, Picture(PHOTO16, None)).shape == (100, 2 * 151 + 8, 3)


def test_comparison_shrinks_large_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.coloring.colorize.PANEL_SIDE", 75)
    assert comparison(Picture(PHOTO, None), Picture(PHOTO, None)).shape == (50, 3 * 75 + 2 * 8, 3)
