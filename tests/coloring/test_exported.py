"""A generator that is opened for coloring."""

import pytest
import torch
from torch import nn

from models_lab import GeneratorUNet, PretrainedUNet
from utils.coloring.exported import fold_norms


@pytest.mark.parametrize("network", [GeneratorUNet(8, 3), PretrainedUNet("lite0", (16, 16, 8, 8))])
def test_fold_norms_leaves_no_norm_and_changes_nothing(network):
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # else every one of them is the identity
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    network.eval().double()
    l = torch.rand(2, 1, 64, 96, dtype=torch.float64) * 2 - 1
    with torch.inference_mode():
        before = network(l)
        assert torch.allclose(fold_norms(network)(l), before, atol=1e-12)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
