"""What a generator with a pretrained encoder sees in training: varied tones, grain, and random color hints.

Hints as in Zhang et al. 2017, "Real-Time User-Guided Image Colorization with Learned Deep Priors", arXiv:1705.02999:
one network learns to color alone and to follow its user.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from models_lab import Generator, PretrainedUNet

HINTED_SHARE = 0.5  # of the samples
MEAN_HINTS = 10  # of a geometric distribution
MAX_RADIUS = 4  # pixels of a hint's square on each side of its center
TONED_SHARE, GRAINY_SHARE = 1 / 3, 1 / 7  # of the samples


def draw_inputs(generator: Generator, l: Tensor, real_ab: Tensor) -> tuple[Tensor, Tensor | None]:
    """Draw what the generator sees of a batch, from torch's random state, which last.pt holds.

    Args:
        generator: one without a pretrained encoder sees L as it is.
        l: (B, 1, S, S), in [-1, 1].
        real_ab: (B, 2, S, S), in [-1, 1].

    Returns:
        L (B, 1, S, S), and the hints (B, 3, S, S) of `draw_hints` or None.
    """
    if not isinstance(generator, PretrainedUNet):
        return l, None
    return vary_tone(l), None


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


def square(row: int, column: int, radius: int) -> tuple[slice, slice]:
    """Give the rows and columns of a hint's square, as far as they are inside the image."""
    return slice(max(0, row - radius), row + radius + 1), slice(max(0, column - radius), column + radius + 1)


def mark_mean(hints: Tensor, ab: Tensor, row: int, column: int, radius: int) -> None:
    """Add a hint, the mean of the true ab (2, H, W) in a square, to the hints (3, H, W) of a sample."""
    rows, columns = square(row, column, radius)
    hints[:2, rows, columns] = ab[:, rows, columns].mean(dim=(1, 2), keepdim=True)
    hints[2, rows, columns] = 1


def draw_hints(ab: Tensor) -> Tensor:
    """Draw hints for some of the samples: squares of 1 to 9 pixels that hold the mean of the true color there.

    Args:
        ab: the truth, (B, 2, S, S), in [-1, 1].

    Returns:
        (B, 3, S, S), as `PretrainedUNet` takes them; all 0 for a sample without hints.
    """
    side = ab.shape[-1]
    hints = torch.zeros(len(ab), 3, side, side, device=ab.device)
    for sample, truth, draw in zip(hints, ab, torch.rand(len(ab)).tolist(), strict=True):
        if draw >= HINTED_SHARE:
            continue
        count = 1 + int(math.log(1 - draw / HINTED_SHARE) / math.log(1 - 1 / MEAN_HINTS))
        for y, x, r in torch.rand(count, 3).tolist():
            mark_mean(sample, truth, int(y * side), int(x * side), int(r * (MAX_RADIUS + 1)))
    return hints
