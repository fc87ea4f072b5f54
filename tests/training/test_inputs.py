import torch

from utils.training.inputs import vary_color, vary_tone


def test_vary_tone_keeps_the_range_and_most_samples():
    torch.manual_seed(0)
    l = torch.linspace(-1, 1, 64).view(1, 1, 8, 8).repeat(700, 1, 1, 1)
    varied = vary_tone(l)
    assert varied.min() >= -1 and varied.max() <= 1
    same = (varied == l).flatten(1).all(dim=1)
    assert 0.52 < same.float().mean() < 0.62  # 2/3 x 6/7
    smooth = (varied.flatten(1).diff(dim=1) >= 0).all(dim=1)  # a tone curve rises; grain does not
    assert 0.82 < smooth.float().mean() < 0.91


def test_vary_color_changes_saturation_and_white_balance_and_keeps_the_mean_of_many():
    torch.manual_seed(0)
    ab = torch.tensor([0.2, -0.1, 0.3, -0.4]).view(1, 2, 1, 2).repeat(4000, 1, 1, 1)
    varied = vary_color(ab)
    saturation = (varied[..., 0] - varied[..., 1]) / (ab[..., 0] - ab[..., 1])  # (B, 2, 1): the cast cancels
    assert saturation.min() >= 0.8 and saturation.max() <= 1.3
    assert torch.allclose(saturation[:, 0], saturation[:, 1], atol=1e-5)
    assert torch.allclose(varied.mean(dim=0), 1.05 * ab[0], atol=0.005)
    assert vary_color(torch.full((9, 2, 4, 4), 0.99)).max() <= 1
