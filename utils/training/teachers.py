"""Generators whose mean another one is taught, so that it comes to know what they know together.

Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from models_lab import Generator, PretrainedUNet
from utils.training import checkpoints


def load_teachers(paths: Sequence[Path], device: torch.device) -> list[Generator]:
    """Load generators in eval mode, without the lift of pale pictures, which the one that learns has itself.

    Raises:
        UserError: a file is missing, damaged or something else.
    """
    teachers = [checkpoints.load_generator(path, device)[0].requires_grad_(False) for path in paths]
    for teacher in teachers:
        if isinstance(teacher, PretrainedUNet):
            teacher.lift = 0.0
    return teachers


@torch.no_grad()
def mean_color(teachers: Sequence[Generator], l: Tensor) -> Tensor:
    """Average what generators predict.

    Args:
        teachers: at least one.
        l: (B, 1, S, S), in [-1, 1].

    Returns:
        (B, 2, S, S), float32, in [-1, 1].
    """
    return torch.stack([teacher(l).float() for teacher in teachers]).mean(dim=0)
