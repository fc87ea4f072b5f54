import math

import torch
import torch.nn.functional as F

import affinity_lab
from affinity_lab import (
    EVEN_REACH,
    FEATURE_REACH,
    LIGHTNESS_REACH,
    NOISE,
    PLACE_REACH,
    even_out,
    follow_hints,
    kernel,
    lift_pale,
)
from models_lab import GeneratorUNet, PretrainedUNet


def hint(rows: slice, columns: slice, ab: tuple[float, float], side: int = 64) -> torch.Tensor:
    planes = torch.zeros(1, 3, side, side)
    planes[0, :, rows, columns] = torch.tensor([*ab, 1.0]).view(3, 1, 1)
    return planes


CELL = slice(32, 36), slice(32, 36)  # a single cell of 4 x 4 pixels
FLAT = torch.zeros(1, 1, 64, 64)
PLAIN = torch.zeros(1, 8, 16, 16)


def test_follow_hints_fades_with_the_distance_by_the_kernel():
    ab = follow_hints(torch.full((1, 2, 64, 64), 0.1), hint(*CELL, (0.5, -0.3)), FLAT, PLAIN)
    for distance in (0, 6, 16):  # pixels from the middle of the cell to that of a square of 2 x 2 pixels
        alike = math.exp(-((distance / (64 * PLACE_REACH)) ** 2) / 2)
        # bilinear enlargement: the middle of the cell lies between four squares, 1 pixel away on each axis
        column = slice(33 + distance, 35 + distance)
        found = ab[0, :, 33:35, column].mean(dim=(1, 2))
        expected = 0.1 + torch.tensor([0.4, -0.4]) * alike / (1 + NOISE)
        torch.testing.assert_close(found, expected, atol=0.01, rtol=0)


def test_follow_hints_stops_where_the_features_or_the_lightness_differ():
    halves = (torch.arange(16) < 8).float().expand(1, 8, 16, 16)  # the hint is left of column 32
    planes = hint(slice(28, 32), slice(24, 28), (0.5, 0.5))
    near, far = (..., slice(28, 32), slice(24, 28)), (..., slice(28, 32), slice(40, 44))
    alone = follow_hints(FLAT.expand(-1, 2, -1, -1), planes, FLAT, PLAIN)
    by_features = follow_hints(FLAT.expand(-1, 2, -1, -1), planes, FLAT, halves)
    light = FLAT + (torch.arange(64) < 32)
    by_lightness = follow_hints(FLAT.expand(-1, 2, -1, -1), planes, light, PLAIN)
    for ab, reach in ((by_features, 2 / FEATURE_REACH), (by_lightness, 1 / LIGHTNESS_REACH)):
        torch.testing.assert_close(ab[near], alone[near], atol=0.01, rtol=0)
        ratio = (ab[far] / alone[far]).mean()
        torch.testing.assert_close(ratio, torch.tensor(math.exp(-(reach**2) / 2)), atol=0.01, rtol=0)


def test_follow_hints_meets_each_of_two_hints():
    planes = hint(*CELL, (0.5, 0.0)) + hint(slice(32, 36), slice(44, 48), (-0.5, 0.2))
    ab = follow_hints(torch.zeros(1, 2, 64, 64), planes, FLAT, PLAIN)
    for columns, wanted in ((slice(33, 35), (0.5, 0.0)), (slice(45, 47), (-0.5, 0.2))):
        torch.testing.assert_close(ab[0, :, 33:35, columns].mean(dim=(1, 2)), torch.tensor(wanted), atol=0.06, rtol=0)


def test_follow_hints_bounds_what_a_huge_hint_costs(monkeypatch):
    torch.manual_seed(0)
    everywhere = hint(slice(None), slice(None), (0.5, -0.3))
    arguments = torch.zeros(1, 2, 64, 64), everywhere, FLAT, PLAIN
    whole = follow_hints(*arguments)
    monkeypatch.setattr(affinity_lab, "MOST_PAIRS", 1000)
    torch.testing.assert_close(follow_hints(*arguments), whole, atol=1e-5, rtol=0)
    monkeypatch.setattr(affinity_lab, "MOST_HINTED", 64)  # of 256 cells
    taken = []
    monkeypatch.setattr(affinity_lab, "kernel", lambda a, b: taken.append(b.shape[1]) or kernel(a, b))
    torch.testing.assert_close(follow_hints(*arguments), whole, atol=0.1, rtol=0)
    assert max(taken) <= 66


def test_follow_hints_leaves_a_sample_without_hints_and_the_range():
    prediction = 0.02 * torch.rand(2, 2, 64, 64)
    planes = torch.cat([torch.zeros(1, 3, 64, 64), hint(slice(0, 64), slice(0, 64), (1.0, -1.0))])
    ab = follow_hints(prediction, planes, FLAT.expand(2, -1, -1, -1), PLAIN.expand(2, -1, -1, -1))
    assert torch.equal(ab[0], prediction[0])
    assert ab.abs().max() <= 1 and ab[1, 0].min() > 0.9 and ab[1, 1].max() < -0.9


@torch.inference_mode()
def test_generator_unet_follows_hints_at_any_size_and_depth():
    for depth, height, width in ((2, 3, 5), (4, 33, 70), (6, 64, 64)):
        generator = GeneratorUNet(8, depth).eval()
        l, planes = torch.rand(1, 1, height, width) * 2 - 1, torch.zeros(1, 3, height, width)
        assert torch.equal(generator(l, planes), generator(l))
        planes[:, 0, 1, 2], planes[:, 2, 1, 2] = 0.5, 1.0
        moved = generator(l, planes) - generator(l)
        assert moved.shape == (1, 2, height, width) and moved[0, 0, 1, 2] > 0.2


def test_even_out_averages_by_the_kernel_of_the_distance():
    ab = torch.zeros(1, 2, 64, 64)
    ab[..., 24:32, 24:32] = 0.5  # one of 8 x 8 cells
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    places = 8 * torch.stack([y, x], dim=-1).view(64, 2) / (64 * PLACE_REACH * EVEN_REACH)
    weights = torch.exp(-(places[:, None] - places).square().sum(dim=2) / 2)
    cells = 0.5 * (weights[:, 3 * 8 + 3] / weights.sum(dim=1)).view(1, 1, 8, 8)
    cells[..., 3, 3] -= 0.5
    expected = ab + F.interpolate(cells, scale_factor=8, mode="bilinear")
    torch.testing.assert_close(even_out(ab, FLAT, PLAIN), expected, atol=1e-5, rtol=0)


def test_even_out_keeps_what_is_even_and_what_looks_different_apart():
    torch.manual_seed(0)
    halves = (torch.arange(16) < 8).float().expand(1, 8, 16, 16)
    ab = torch.where(torch.arange(64) < 32, 0.4, -0.4).expand(1, 2, 64, 64)
    light = 2.0 * (torch.arange(64) < 32) - 1
    assert torch.allclose(even_out(ab, light.expand(1, 1, 64, 64), halves), ab, atol=1e-3)
    patched = ab + 0.1 * torch.randn(1, 2, 8, 8).repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
    evened = even_out(patched, light.expand(1, 1, 64, 64), halves)
    assert (evened - ab).square().mean() < (patched - ab).square().mean() / 2


def test_even_out_in_pieces_gives_what_the_whole_gives(monkeypatch):
    torch.manual_seed(0)
    ab, l, features = torch.rand(2, 2, 64, 96) - 0.5, torch.rand(2, 1, 64, 96), torch.randn(2, 8, 16, 24)
    whole = even_out(ab, l, features)
    monkeypatch.setattr("affinity_lab.MOST_PAIRS", 1000)  # 96 cells: ten at a time, and six
    torch.testing.assert_close(even_out(ab, l, features), whole, atol=1e-6, rtol=0)


@torch.inference_mode()
def test_pretrained_unet_evens_out_in_eval_mode_alone(monkeypatch):
    network = PretrainedUNet("lite0", channels=(32, 24, 16, 8))
    l = torch.rand(2, 1, 64, 96)
    monkeypatch.setattr("models_lab.even_out", lambda ab, l, features: torch.zeros_like(ab))
    assert network.train()(l).abs().max() > 0 == network.eval()(l).abs().max()


def test_lift_pale_gives_a_pale_picture_color_and_takes_some_from_a_gaudy_one():
    ab = torch.zeros(3, 2, 4, 4)
    ab[:, 0] = torch.tensor([0.04, 0.2, 0.4]).view(3, 1, 1)
    lifted = lift_pale(ab, 0.5)[:, 0, 0, 0]
    factors = [(0.15 / 0.04) ** (1 / 1.01) * 0.2 ** (1 / 3), 0.75 ** (1 / 1.25), 0.375**0.5 * 2 ** (1 / 3)]
    assert torch.allclose(lifted, ab[:, 0, 0, 0] * torch.tensor(factors) ** 0.5)
    assert torch.equal(lift_pale(ab, 0.0), ab)
    assert not lift_pale(torch.zeros(1, 2, 4, 4), 0.5).any()
