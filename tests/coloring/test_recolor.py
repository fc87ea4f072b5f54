from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage import color

from utils.coloring.recolor import fit_levels, recolor
from utils.lab import fit_gamut, lab_to_rgb, lightness, rgb_to_lab


def random_colors(dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """Levels and other ab, from gray to far outside sRGB, of any shape that OpenCV might take for something else."""
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, np.iinfo(dtype).max, (90, 120, 3), dtype, endpoint=True)
    rgb[:9], rgb[9:18], rgb[18:40] = 0, np.iinfo(dtype).max, rgb[18:40] // 20
    strength = rng.choice([0, 1, 10, 40, 110], (1, 90, 120))
    return rgb, (rng.uniform(-1, 1, (2, 90, 120)) * strength).astype(np.float32)


def convert_one_by_one(l: torch.Tensor, ab: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """L (1, H, W) and ab (2, H, W) to levels (H, W, 3) by the conversions of images as a whole."""
    gray = rgb_to_lab(torch.ones(3, 1, 1))  # whose ab is slightly off 0
    lab = torch.cat([l, torch.from_numpy(ab) + gray[1:] * l / 100])
    levels = lab_to_rgb(fit_gamut(lab)) * np.iinfo(dtype).max
    return np.rint(levels.permute(1, 2, 0).numpy()).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_recolor_equals_the_conversions_inside_and_finds_all_outside(dtype):
    rgb, ab = random_colors(dtype)
    found, outside, _ = recolor(rgb, ab)
    expected = convert_one_by_one(lightness(rgb), ab, rgb.dtype)
    assert found.dtype == expected.dtype == dtype and found.shape == expected.shape == rgb.shape
    difference = np.abs(found.astype(int) - expected).reshape(-1, 3).max(axis=1)
    inside = np.setdiff1d(np.arange(len(difference)), outside)
    assert 2000 < len(outside) < 9000  # strong colors are outside
    assert difference[inside].max() <= 1 and (difference[inside] > 0).mean() < 0.02
    assert difference[outside].max() > np.iinfo(dtype).max // 255  # and need to be fitted


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_recolor_keeps_the_luminance_inside(dtype):
    rgb, ab = random_colors(dtype)
    found, outside, _ = recolor(rgb, ab)
    before, after = (color.rgb2xyz(levels / np.iinfo(dtype).max)[..., 1].ravel() for levels in (rgb, found))
    # Each channel is rounded by half a level; sRGB's curve is steepest, 2.4 / 1.055, at white; Y's weights sum to 1.
    inside = np.delete(np.abs(after - before), outside)
    assert inside.max() < 1.05 * 0.5 / np.iinfo(dtype).max * 2.4 / 1.055


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (3, 1), (1, 3), (4, 1), (1, 4), (4, 4)])
def test_recolor_takes_small_images_for_images(shape):
    height, width = shape
    rgb, ab = random_colors(np.uint8)
    expected = recolor(rgb, ab)[0][60 : 60 + height, :width]
    found, *_ = recolor(rgb[60 : 60 + height, :width], ab[:, 60 : 60 + height, :width])
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_fit_levels_equals_the_conversions(dtype: type) -> None:
    rgb, ab = random_colors(dtype)
    _, outside, lab = recolor(rgb, ab)
    np.testing.assert_allclose(lab[0], lightness(rgb).flatten()[outside], atol=1e-4)
    # The same L for both: how its cube root is rounded depends on the processor.
    found = fit_levels(lab, rgb.dtype).astype(int)
    expected = convert_one_by_one(torch.from_numpy(lab[:1, None]), lab[1:, None], rgb.dtype)[0]
    assert found.shape == expected.shape
    # The chroma may differ by a step of 2**-8 where a float tips it, which is rare.
    difference = np.abs(found - expected)
    assert np.quantile(difference, 0.95) <= 1
    difference = difference / np.iinfo(dtype).max * 255
    assert (difference > 1).mean() < 1e-3 and difference.max() < 5


def test_recolor_into_its_own_pixels_gives_the_same() -> None:
    rgb, ab = random_colors(np.uint8)
    expected, *_ = recolor(rgb, ab)
    framed = np.pad(rgb, ((2, 2), (3, 3), (0, 0)))
    inner = framed[2:-2, 3:-3]
    found, *_ = recolor(inner, ab, inner)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(inner, expected)
    assert not framed[:2].any() and not framed[:, -3:].any()
