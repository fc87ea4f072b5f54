import torch

from utils import run
from utils.training.inputs import vary_tone


def test_vary_tone_keeps_the_range_and_most_samples():
    torch.manual_seed(0)
    l = torch.linspace(-1, 1, 64).view(1, 1, 8, 8).repeat(700, 1, 1, 1)
    varied = vary_tone(l)
    assert varied.min() >= -1 and varied.max() <= 1
    same = (varied == l).flatten(1).all(dim=1)
    assert 0.52 < same.float().mean() < 0.62  # 2/3 x 6/7
    smooth = (varied.flatten(1).diff(dim=1) >= 0).all(dim=1)  # a tone curve rises; grain does not
    assert 0.82 < smooth.float().mean() < 0.91


def test_vary_tone_of_two_processes_is_that_of_one_on_the_whole_batch(monkeypatch):
    l = torch.linspace(-1, 1, 64).view(1, 1, 8, 8).repeat(40, 1, 1, 1)
    torch.manual_seed(0)
    alone = vary_tone(l)
    monkeypatch.setattr(run, "world_size", lambda: 2)
    for rank in (0, 1):
        torch.manual_seed(0)
        monkeypatch.setattr(run, "rank", lambda rank=rank: rank)
        assert torch.equal(vary_tone(l[rank::2]), alone[rank::2])
