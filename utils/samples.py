"""One sample, from an image file to uint8 L and ab: what the files and the cache must do alike.

A sample depends on (seed, epoch, index) alone, never on which worker makes it, so a resumed run sees what an
uninterrupted one would have seen. It stays uint8 until it is on the device (see `utils.lab.decode_lab`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils.images import center_crop, read_rgb, resize, shorter_side_shape
from utils.lab import encode_lab


def load_lab(path: Path, load_size: int) -> np.ndarray:
    """Read an image as stored LAB with its shorter side at `load_size`.

    Returns:
        (H, W, 3), uint8, as `utils.lab.encode_lab` stores it.

    Raises:
        ImageError: the file cannot be used.
    """
    rgb = read_rgb(path)
    return encode_lab(resize(rgb, *shorter_side_shape(*rgb.shape[:2], load_size)))


def cut_sample(
    lab: np.ndarray, img_size: int, rng: np.random.Generator | None, scale_jitter: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Cut a square sample: the center without `rng`, else a random crop, flipped half of the time.

    Args:
        lab: (H, W, 3), uint8, stored LAB, both sides at least `img_size`.
        img_size: side of the sample.
        rng: source of the crop, the flip and the jitter.
        scale_jitter: the crop's side is drawn from img_size * [1 - s, 1 + s], then resized to `img_size`.

    Returns:
        L (1, S, S) and ab (2, S, S), uint8.
    """
    height, width = lab.shape[:2]
    if rng is None:
        crop = center_crop(lab, img_size, img_size)
    else:
        side = img_size
        if scale_jitter:
            side = min(round(img_size * rng.uniform(1 - scale_jitter, 1 + scale_jitter)), height, width)
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        crop = resize(lab[top : top + side, left : left + side], img_size, img_size)
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
    planes = torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1)))
    return planes[:1], planes[1:]


def sample_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """Make the random generator of one sample of one epoch."""
    return np.random.default_rng((seed, epoch, index))


def image_keys(source: Path, images: Sequence[Path]) -> list[str]:
    """Name images relative to their source, as the cache's index does."""
    root = source if source.is_dir() else source.parent
    return [(path.relative_to(root) if path.is_relative_to(root) else path).as_posix() for path in images]


def source_hash(source: Path, images: Sequence[Path]) -> str:
    """Hash the names and sizes of a source's images; one that a list names in vain counts as empty."""
    digest = hashlib.sha256()
    for key, path in zip(image_keys(source, images), images, strict=True):
        size = path.stat().st_size if path.exists() else 0
        digest.update(f"{key}\t{size}\n".encode())
    return digest.hexdigest()
