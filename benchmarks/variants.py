"""Recipe changes that `benchmarks.ablate` tries: flags of train_lab.py, and parts that replace its own.

docs/EXPERIMENTS.md has the numbers of all variants so far. The code of those that are not here is at commit 414d898.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import cast
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import train_lab
from layers_lab import Down
from models_lab import GeneratorUNet
from utils.training import checkpoints, stage

PLACES = (train_lab, stage, checkpoints)  # modules whose names a variant can replace


@dataclass(frozen=True)
class Phase:
    """One run of train_lab.py, which starts from the phase before."""

    flags: str = ""  # of train_lab.py
    parts: Mapping[str, object] = field(default_factory=dict)  # names in PLACES, and what replaces them
    share: float = 1.0  # of the budget of images

    @contextmanager
    def replaced(self) -> Iterator[None]:
        """Let PLACES use the parts."""
        with ExitStack() as stack:
            for name, part in self.parts.items():
                for place in (place for place in PLACES if hasattr(place, name)):
                    stack.enter_context(mock.patch.object(place, name, part))
            yield


class Attention(nn.Module):
    """Self-attention over all positions, with a weight that starts at 0 (Zhang et al. 2018, arXiv:1805.08318)."""

    def __init__(self, channels: int, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.out = nn.Conv2d(channels, channels, 1)
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).flatten(2).unflatten(1, (3, self.heads, -1)).transpose(-1, -2).unbind(1)
        y = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(x.shape)
        return x + self.weight * self.out(y)


class AttentionGenerator(GeneratorUNet):
    """The U-Net with self-attention at a 16th of the input's size."""

    def __init__(self, width: int, depth: int, norm: str, upsample: str):
        super().__init__(width, depth, norm, upsample)
        down = cast(Down, self.downs[3])
        down.norm = nn.Sequential(down.norm, Attention(down.conv.out_channels))


L1_ALONE = "--lambda-l1 100000"  # Adam ignores the scale of a loss, so this leaves the GAN a 1000th of its weight
HALF_SIZE = "--img-size 32 --load-size 36 --gen-depth 5 --cache-dir none"
VARIANTS: dict[str, tuple[Phase, ...]] = {
    "base": (Phase(),),
    "L1 x 2.5": (Phase("--lambda-l1 250"),),
    "L1 alone": (Phase(L1_ALONE),),
    "L1, then GAN": (Phase(L1_ALONE, share=0.7), Phase("--learning-rate 1e-4", share=0.3)),
    "attention": (Phase(parts={"GeneratorUNet": AttentionGenerator, "GENERATORS": (AttentionGenerator,)}),),
    "scale jitter 0.1": (Phase("--scale-jitter 0.1"),),
    "32 px first": (Phase(HALF_SIZE, share=0.5), Phase(share=0.5)),
}
