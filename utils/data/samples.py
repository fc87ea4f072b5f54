"""Samples, from an image to uint8 L and ab: what reading from files and from the cache have in common.

A sample depends on (seed, epoch, index) alone, never on which worker makes it, so a resumed run sees what an
uninterrupted one would have seen. It stays uint8 until it is on the device (see `utils.lab.decode_lab`).
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from utils.files import name_bytes
from utils.images import read_rgb, resize, shorter_side_shape
from utils.lab import encode_lab


def load_rgb(path: Path, load_size: int) -> np.ndarray:
    """Read an image with its shorter side at `load_size`.

    Returns:
        (H, W, 3), uint8, sRGB.

    Raises:
        ImageError: the file cannot be used.
    """
    rgb = read_rgb(path, load_size)
    height, width = rgb.shape[:2]
    return resize(rgb, *shorter_side_shape(height, width, load_size))


def lab_planes(rgb: np.ndarray) -> Sequence[np.ndarray]:
    """Convert RGB (H, W, 3), uint8, to the three planes (H, W) of what `utils.lab.encode_lab` stores."""
    return cv2.split(encode_lab(rgb))


def sample_draws(seed: int, epoch: int, index: int) -> tuple[float, ...]:
    """Draw four uniform numbers in [0, 1) for one sample of one epoch.

    They come from a hash (BLAKE2b): seeding a random generator would take longer than cropping the sample.
    """
    digest = hashlib.blake2b(f"{seed}.{epoch}.{index}".encode(), digest_size=32).digest()
    return tuple((word >> 11) / 2**53 for word in struct.unpack("<4Q", digest))


def choose_crop(
    height: int, width: int, img_size: int, draws: Sequence[float] | None, scale_jitter: float
) -> tuple[slice, slice, bool]:
    """Choose a square of an image: the center without `draws`, else a random place.

    Args:
        height, width: of the image, both at least `img_size`.
        img_size: side of the square.
        draws: four numbers in [0, 1), for the side, the top, the left and the flip.
        scale_jitter: the side is drawn from img_size * [1 - scale_jitter, 1 + scale_jitter], and is at most the
            image's shorter side.

    Returns:
        Rows, columns, and whether to flip them left to right (half of the time).
    """
    if draws is None:
        top, left = (height - img_size) // 2, (width - img_size) // 2
        return slice(top, top + img_size), slice(left, left + img_size), False
    side = img_size
    if scale_jitter:
        side = min(round(img_size * (1 + scale_jitter * (2 * draws[0] - 1))), height, width)
    top, left = int(draws[1] * (height - side + 1)), int(draws[2] * (width - side + 1))
    return slice(top, top + side), slice(left, left + side), draws[3] < 0.5


class LabDataset(Dataset[tuple[Tensor, Tensor]]):
    """Square samples of images; a subclass says where the images come from and how a part of one becomes LAB.

    Args:
        img_size: side S of the samples, in pixels.
        seed: of the random crops and flips; None gives center crops.
        scale_jitter: share by which the crop's side varies before it is resized to S.
    """

    def __init__(self, img_size: int, seed: int | None, scale_jitter: float):
        self.img_size, self.seed, self.scale_jitter = img_size, seed, scale_jitter

    def load(self, index: int) -> np.ndarray:
        """Give image `index` as (H, W, 3), uint8, both sides at least S."""
        raise NotImplementedError

    def to_planes(self, crop: np.ndarray) -> Sequence[np.ndarray]:
        """Convert a part (h, w, 3) of such an image to the three planes (h, w) of stored LAB."""
        raise NotImplementedError

    def __getitems__(self, keys: Sequence[int | tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Give a batch, which a DataLoader asks for as a whole: L (B, 1, S, S) and ab (B, 2, S, S), uint8.

        A key is an index, or (epoch, index) for the random crops of that epoch.
        """
        size = self.img_size
        batch = np.empty((len(keys), 3, size, size), np.uint8)
        for sample, key in zip(batch, keys, strict=True):
            epoch, index = key if isinstance(key, tuple) else (0, key)
            draws = None if self.seed is None else sample_draws(self.seed, epoch, index)
            image = self.load(index)
            height, width = image.shape[:2]
            rows, columns, flip = choose_crop(height, width, size, draws, self.scale_jitter)
            planes = self.to_planes(image[rows, columns])
            if rows.stop - rows.start != size:
                planes = [resize(plane, size, size) for plane in planes]
            sample[...] = planes
            if flip:
                lines = sample.reshape(3 * size, size)
                cv2.flip(lines, 1, dst=lines)
        samples = torch.from_numpy(batch)
        return samples[:, :1], samples[:, 1:]  # of one storage, which a worker sends once

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Give one sample: L (1, S, S) and ab (2, S, S), uint8."""
        l, ab = self.__getitems__([key])
        return l[0], ab[0]


def image_keys(source: Path, images: Sequence[Path]) -> list[str]:
    """Name images relative to their source, as the cache's index does."""
    root = source if source.is_dir() else source.parent
    return [(path.relative_to(root) if path.is_relative_to(root) else path).as_posix() for path in images]


def source_hash(source: Path, images: Sequence[Path]) -> str:
    """Hash the names and sizes of a source's images; a listed file that does not exist counts as empty."""
    digest = hashlib.sha256()
    for key, path in zip(image_keys(source, images), images, strict=True):
        size = os.path.getsize(path) if os.path.exists(path) else 0
        digest.update(name_bytes(f"{key}\t{size}\n"))
    return digest.hexdigest()


@dataclass(frozen=True)
class Source:
    """The images of a folder or list that a stage can use.

    Attributes:
        images: in sorted order.
        key: changes with the names and sizes of all images there, for the check on resuming.
        open_samples: makes a dataset of some of the images, with the seed of its random crops (None: center crops).
    """

    images: Sequence[Path]
    key: str
    open_samples: Callable[[Sequence[Path], int | None], LabDataset]
