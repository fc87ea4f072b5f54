"""Generators whose mean another one is taught, so that it comes to know what they know together.

Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from models_lab import PretrainedUNet
from utils.run import UserError
from utils.training import checkpoints

MEND = "give --teachers the G_*.pt files of generators with a pretrained encoder"


def load_teachers(paths: Sequence[Path], device: torch.device) -> tuple[list[PretrainedUNet], str]:
    """Load networks in eval mode, and the digests of their files.

    Raises:
        UserError: a file is missing, damaged or has no pretrained encoder.
    """
    teachers: list[PretrainedUNet] = []
    for path in paths:
        teacher, _ = checkpoints.load_generator(path, device, MEND)
        if not isinstance(teacher, PretrainedUNet):
            raise UserError(f"{path}: no pretrained encoder; {MEND}")
        teachers.append(teacher.requires_grad_(False))
    return teachers, "".join(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)


@torch.no_grad()
def mean_color(teachers: Sequence[PretrainedUNet], l: Tensor) -> Tensor:
    """Average what networks predict, neither evened out nor lifted: both are for the one that learns to do.

    Args:
        teachers: at least one.
        l: (B, 1, S, S), in [-1, 1].

    Returns:
        (B, 2, S, S), float32, in [-1, 1].
    """
    return torch.stack([teacher.guess(l)[0].float() for teacher in teachers]).mean(dim=0)
