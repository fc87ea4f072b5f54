import torch

from models_lab import GeneratorUNet, PretrainedUNet
from utils.training.inputs import draw_hints, draw_inputs, vary_tone


def test_draw_inputs_leaves_a_network_from_scratch_and_the_random_state_alone():
    l, ab, generator = torch.rand(2, 1, 16, 16), torch.rand(2, 2, 16, 16), GeneratorUNet(8, 3)
    before = torch.get_rng_state()
    seen, hints = draw_inputs(generator, l, ab)
    assert seen is l and hints is None and torch.equal(torch.get_rng_state(), before)
    seen, hints = draw_inputs(PretrainedUNet("lite0", (16, 16, 8, 8)), l, ab)
    assert seen.shape == l.shape and hints.shape == (2, 3, 16, 16)


def test_draw_hints_marks_squares_with_the_true_color_of_half_of_the_samples():
    torch.manual_seed(0)
    truth = torch.tensor([0.25, -0.5]).view(1, 2, 1, 1).expand(400, 2, 32, 32)
    hints = draw_hints(truth)
    marked = hints[:, 2] == 1
    assert torch.equal(hints[:, 2], marked.float())
    assert torch.equal(hints[:, :2], truth * marked[:, None])
    assert 0.42 < marked.flatten(1).any(dim=1).float().mean() < 0.58  # 2.8 standard deviations
    assert (marked.sum(dim=(1, 2)) == 1).any()  # a single pixel


def test_draw_hints_gives_the_mean_of_a_square():
    torch.manual_seed(3)
    truth = torch.zeros(50, 2, 32, 32)
    truth[:, 0] = torch.arange(32) / 32  # a rises from left to right
    for hint in draw_hints(truth):
        for row, column in (hint[2] > 0).nonzero().tolist():
            assert abs(hint[0, row, column] - column / 32) <= 9 / 32
            assert hint[1, row, column] == 0


def test_vary_tone_keeps_the_range_and_most_samples():
    torch.manual_seed(0)
    l = torch.linspace(-1, 1, 64).view(1, 1, 8, 8).repeat(700, 1, 1, 1)
    varied = vary_tone(l)
    assert varied.min() >= -1 and varied.max() <= 1
    same = (varied == l).flatten(1).all(dim=1)
    assert 0.52 < same.float().mean() < 0.62  # 2/3 x 6/7
    smooth = (varied.flatten(1).diff(dim=1) >= 0).all(dim=1)  # a tone curve rises; grain does not
    assert 0.82 < smooth.float().mean() < 0.91
