"""What a generator with a pretrained encoder sees in training: the tones and the grain of old photographs."""

from __future__ import annotations

import torch
from torch import Tensor

TONED_SHARE, GRAINY_SHARE = 1 / 3, 1 / 7  # of the samples


def vary_tone(l: Tensor) -> Tensor:
    """Fade, darken or brighten some samples and add grain to others, as old photographs and scans are.

    Args:
        l: (B, 1, S, S), in [-1, 1].

    Returns:
        The same shape and range.
    """
    toned, gamma, contrast, offset, grainy, grain = torch.rand(6, len(l), 1, 1, 1).to(l.device)
    span = 1 - 0.4 * contrast
    varied = ((l + 1) / 2) ** (2 ** (1.4 * gamma - 0.7)) * span + offset * (1 - span)
    l = torch.where(toned < TONED_SHARE, 2 * varied - 1, l)
    return (l + (grainy < GRAINY_SHARE) * 0.2 * grain * torch.randn_like(l)).clamp(-1, 1)
