"""How photographs are varied for a generator with a pretrained encoder, which otherwise learns them by heart."""

from __future__ import annotations

import torch
from torch import Tensor

TONED_SHARE, GRAINY_SHARE = 1 / 3, 1 / 7  # of the samples


def vary(l: Tensor, ab: Tensor) -> tuple[Tensor, Tensor]:
    """Give the L that the generator sees of a batch, and the ab that it is to predict; see the other functions."""
    return vary_tone(l), vary_color(ab)


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


def vary_color(ab: Tensor) -> Tensor:
    """Change the saturation and the white balance of each sample, which cannot be told from its lightness.

    Args:
        ab: (B, 2, S, S), in [-1, 1].

    Returns:
        The same shape and range: times 0.8 to 1.3, and moved by about 3 CIELAB units.
    """
    saturation = 0.8 + 0.5 * torch.rand(len(ab), 1, 1, 1).to(ab.device)
    cast = 0.03 * torch.randn(len(ab), 2, 1, 1).to(ab.device)
    return (saturation * ab + cast).clamp(-1, 1)
