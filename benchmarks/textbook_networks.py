"""The networks of the textbook loop (see `benchmarks.textbook`), apart so that they load fast."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Generator(nn.Module):
    """Six 4x4 stride-2 convolutions, mirrored transposed convolutions with skips: 29.2 M weights."""

    def __init__(self) -> None:
        super().__init__()
        self.architecture: dict[str, int] = {}
        down, up = (1, 64, 128, 256, 512, 512, 512), (512, 512, 256, 128, 64)
        self.downs = nn.ModuleList(nn.Conv2d(i, o, 4, 2, 1, bias=False) for i, o in pairwise(down))
        ins = (512, 1024, 1024, 512, 256)
        self.ups = nn.ModuleList(nn.ConvTranspose2d(i, o, 4, 2, 1, bias=False) for i, o in zip(ins, up, strict=True))
        self.norms = nn.ModuleList(nn.InstanceNorm2d(channels) for channels in (*down[2:-1], *up))
        self.head = nn.ConvTranspose2d(128, 2, 4, 2, 1)

    def forward(self, l: Tensor) -> Tensor:
        """Map L (B, 1, H, W) to ab (B, 2, H, W), both in [-1, 1]; H and W must be divisible by 64."""
        skips = [F.leaky_relu(self.downs[0](l), 0.2)]
        for down, norm in zip(self.downs[1:-1], self.norms, strict=False):
            skips.append(F.leaky_relu(norm(down(skips[-1])), 0.2))
        x = F.relu(self.downs[-1](skips[-1]))
        for up, norm in zip(self.ups, self.norms[len(self.downs) - 2 :], strict=True):
            x = torch.cat([F.relu(norm(up(x))), skips.pop()], dim=1)
        return torch.tanh(self.head(x))


class Discriminator(nn.Module):
    """Three 4x4 stride-2 blocks and a patch of scores: 0.66 M weights, a receptive field of 46 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.architecture: dict[str, int] = {}
        self.layers = nn.Sequential(
            nn.Conv2d(3, 64, 4, 2, 1, bias=False),
            nn.LeakyReLU(0.2),
            nn.Conv2d(64, 128, 4, 2, 1, bias=False),
            nn.InstanceNorm2d(128),
            nn.LeakyReLU(0.2),
            nn.Conv2d(128, 256, 4, 2, 1, bias=False),
            nn.InstanceNorm2d(256),
            nn.LeakyReLU(0.2),
            nn.Conv2d(256, 1, 4, 1, 1),
        )

    def forward(self, l: Tensor, ab: Tensor) -> Tensor:
        """Score patches of L (B, 1, H, W) with ab (B, 2, H, W)."""
        return self.layers(torch.cat([l, ab], dim=1))
