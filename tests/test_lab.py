import warnings

import numpy as np
import pytest
import torch
from skimage import color, data

from utils.lab import (
    decode_lab,
    denormalize_ab,
    denormalize_l,
    encode_lab,
    fit_gamut,
    lab_to_rgb,
    lightness,
    network_to_rgb,
    normalize_ab,
    normalize_l,
    rgb_to_lab,
    to_uint8,
)


def as_planes(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


@pytest.fixture(scope="module")
def all_levels() -> np.ndarray:
    """RGB on a grid of the cube that holds every corner and every gray: (36, 1024, 3), uint8."""
    levels = np.arange(0, 256, 5, dtype=np.uint8)[::2]
    cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 3)
    gray = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    return np.concatenate([cube, gray])[None]


def test_rgb_to_lab_agrees_with_skimage(all_levels):
    expected = color.rgb2lab(all_levels)
    found = rgb_to_lab(as_planes(all_levels).float() / 255).permute(1, 2, 0)
    assert np.abs(found.numpy() - expected).max() < 1e-3


def test_lab_to_rgb_agrees_with_skimage_inside_and_outside_the_gamut():
    rng = np.random.default_rng(0)
    lab = rng.uniform([0, -110, -110], [100, 110, 110], (64, 64, 3))
    with pytest.warns(UserWarning, match="negative Z"):
        expected = color.lab2rgb(lab)
    found = lab_to_rgb(as_planes(lab)).permute(1, 2, 0)
    assert np.abs(found.numpy() - expected).max() < 1e-3


def test_round_trip_returns_every_level(all_levels):
    planes = as_planes(all_levels)
    assert torch.equal(to_uint8(lab_to_rgb(rgb_to_lab(planes.float() / 255))), planes)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_lightness_agrees_with_skimage(all_levels, dtype):
    levels = all_levels.astype(dtype) * (np.iinfo(dtype).max // 255)
    expected = color.rgb2lab(levels / np.iinfo(dtype).max)[:, :, 0]
    found = lightness(levels)
    assert found.shape == (1, *expected.shape) and found.dtype == torch.float32
    assert np.abs(found[0].numpy() - expected).max() < 1e-4


@pytest.mark.parametrize("value", [0.0, 0.04045, 0.5, 1.0])
def test_rgb_to_lab_has_a_finite_gradient(value):
    rgb = torch.full((1, 3, 2, 2), value, requires_grad=True)
    rgb_to_lab(rgb).sum().backward()
    assert rgb.grad.isfinite().all() and rgb.grad.abs().sum() > 0


def test_lab_to_rgb_gradient_agrees_with_differences():
    lab = torch.tensor([55.0, 20.0, -15.0], dtype=torch.float32)[:, None, None].requires_grad_()
    lab_to_rgb(lab).sum().backward()
    for plane in range(3):
        step = torch.zeros_like(lab)
        step[plane] = 0.5
        difference = (lab_to_rgb(lab + step).sum() - lab_to_rgb(lab - step).sum()).item()
        assert lab.grad[plane].item() == pytest.approx(difference, rel=1e-2, abs=1e-5)


def test_conversions_stay_in_float32_under_autocast():
    rgb = torch.rand(1, 3, 4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lab = rgb_to_lab(rgb)
        back = lab_to_rgb(lab)
    assert lab.dtype == back.dtype == torch.float32
    assert (back - rgb).abs().max() < 1e-3


def test_fit_gamut_keeps_lightness_and_hue_of_colors_outside():
    rng = np.random.default_rng(1)
    lab = as_planes(rng.uniform([1, -110, -110], [99, 110, 110], (64, 64, 3))).float()
    fitted = fit_gamut(lab)
    assert torch.equal(fitted[0], lab[0])
    cross = lab[1] * fitted[2] - lab[2] * fitted[1]
    assert cross.abs().max() < 1e-2
    assert (rgb_to_lab(lab_to_rgb(fitted))[0] - lab[0]).abs().max() < 0.02
    clipped = rgb_to_lab(lab_to_rgb(lab))[0] - lab[0]
    assert clipped.abs().max() > 5  # what clipping channel by channel would have done


def test_fit_gamut_leaves_colors_inside_alone():
    lab = rgb_to_lab(as_planes(data.astronaut()).float() / 255)
    assert torch.equal(fit_gamut(lab), lab)


@pytest.mark.parametrize("lightest", [5, 100])
def test_fit_gamut_leaves_the_largest_chroma_that_fits(lightest):
    rng = np.random.default_rng(2)
    lab = rng.uniform([0.05, -110, -110], [lightest, 110, 110], (50_000, 3))
    lab[:9999, 1:] *= 0.2
    lab = lab.astype(np.float32).astype(float)
    fitted = fit_gamut(torch.from_numpy(lab.T[:, None]))[:, 0].T.double().numpy()

    def is_shown(lab: np.ndarray, slack: float) -> np.ndarray:  # 1e-4 of sRGB's range beyond its ends count as shown
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*negative Z")
            linear = color.lab2xyz(lab) @ color.colorconv.rgb_from_xyz.T
        low, high = linear.min(axis=1) + 1e-4 / 12.92, ((1 + 1e-4 + 0.055) / 1.055) ** 2.4 - linear.max(axis=1)
        return np.minimum(low, high) > -slack

    moved = ~is_shown(lab, 1e-6)
    assert 0.4 < moved.mean() < 0.99
    np.testing.assert_array_equal(fitted[is_shown(lab, -1e-6)], lab[is_shown(lab, -1e-6)])
    assert is_shown(fitted, 1e-6).all()
    more = fitted + 2**-8 * lab * [0, 1, 1]
    assert not is_shown(more[moved], -1e-6).any()
    steps = 2**8 * np.linalg.norm(fitted[moved, 1:], axis=1) / np.linalg.norm(lab[moved, 1:], axis=1)
    np.testing.assert_allclose(steps, steps.round(), atol=1e-3)  # the same wherever the search came from


def test_fit_gamut_works_on_batches():
    lab = torch.tensor([50.0, 120.0, 0.0])[None, :, None, None].repeat(2, 1, 3, 5)
    fitted = fit_gamut(lab)
    assert fitted.shape == lab.shape
    assert torch.equal(fitted[0], fitted[1]) and fitted[0, 1].max() < 100


def test_encode_lab_is_within_two_levels_of_skimage(all_levels):
    lab = color.rgb2lab(all_levels)
    expected = np.stack([lab[..., 0] * 2.55, lab[..., 1] + 128, lab[..., 2] + 128], axis=-1)
    difference = np.abs(encode_lab(all_levels) - expected)
    assert difference.max() < 2.5 and difference.mean() < 0.35


def test_decode_lab_undoes_encode_lab():
    stored = as_planes(encode_lab(data.astronaut()))
    l, ab = decode_lab(stored[:1], stored[1:])
    expected = color.rgb2lab(data.astronaut())
    assert np.abs(denormalize_l(l)[0].numpy() - expected[..., 0]).max() < 1
    assert np.abs(denormalize_ab(ab).permute(1, 2, 0).numpy() - expected[..., 1:]).max() < 2.5


def test_network_scales_are_minus_one_to_one():
    assert normalize_l(torch.tensor([0.0, 50.0, 100.0])).tolist() == [-1, 0, 1]
    assert normalize_ab(torch.tensor([-110.0, 0.0, 110.0])).tolist() == [-1, 0, 1]
    l, ab = torch.rand(5) * 100, torch.rand(5) * 110
    assert torch.allclose(denormalize_l(normalize_l(l)), l, atol=1e-4)
    assert torch.allclose(denormalize_ab(normalize_ab(ab)), ab, atol=1e-4)


def test_network_to_rgb_of_zero_ab_is_gray():
    rgb = network_to_rgb(torch.linspace(-1, 1, 16).reshape(1, 1, 4, 4), torch.zeros(1, 2, 4, 4))
    assert (rgb.amax(1) - rgb.amin(1)).max() < 1e-4
    assert rgb.flatten()[0] == pytest.approx(0, abs=1e-4) and rgb.flatten()[-1] == pytest.approx(1, abs=1e-4)
