"""What a generator with a pretrained encoder sees in training: the tones and the grain of old photographs."""

from __future__ import annotations

import torch
from torch import Tensor

from utils import run

TONED_SHARE, GRAINY_SHARE = 1 / 3, 1 / 7  # of the samples


def vary_tone(l: Tensor) -> Tensor:
    """Fade, darken or brighten some samples and add grain to others, as old photographs and scans are.

    Args:
        l: (B, 1, S, S), in [-1, 1].

    Returns:
        The same shape and range.
    """
    own = slice(run.rank(), None, run.world_size())  # every process draws for all of them, as one alone does
    total = len(l) * run.world_size()
    toned, gamma, contrast, offset, grainy, grain = torch.rand(6, total, 1, 1, 1)[:, own].to(l.device)
    noise = torch.randn(total, *l.shape[1:], device=l.device)[own]
    span = 1 - 0.4 * contrast
    varied = ((l + 1) / 2) ** (2 ** (1.4 * gamma - 0.7)) * span + offset * (1 - span)
    l = torch.where(toned < TONED_SHARE, 2 * varied - 1, l)
    return (l + (grainy < GRAINY_SHARE) * 0.2 * grain * noise).clamp(-1, 1)
