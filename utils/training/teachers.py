"""Generators whose mean another one is taught, so that it comes to know what they know together.

Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from models_lab import Generator, GeneratorUNet
from utils.training import checkpoints

MEND = "give --teachers the G_*.pt files of trained generators"


def load_teachers(paths: Sequence[Path], device: torch.device) -> tuple[list[Generator], str]:
    """Load generators in eval mode, and the digests of their files.

    Pale pictures are not lifted, as that is for the one that learns to do. Colors are evened out, and a saturation
    that a file was published with stays in it.

    Raises:
        UserError: a file is missing, damaged or something else.
    """
    teachers = [checkpoints.load_generator(path, device, MEND)[0].requires_grad_(False) for path in paths]
    for teacher in teachers:
        if not isinstance(teacher, GeneratorUNet):
            teacher.lift = 0.0
    return teachers, "".join(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)


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
