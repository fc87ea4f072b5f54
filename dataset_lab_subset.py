"""Samples decoded from image files on the fly; `dataset_lab_cache.py` gives the same ones from the cache."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from utils.data.samples import LabDataset, lab_planes, load_rgb
from utils.images import ImageError
from utils.run import UserError


class LabSubsetDataset(LabDataset):
    """Read (L, ab) samples from image files.

    An image that cannot be used is named on stderr, once by each process that meets it, and replaced by the next one
    in the list.

    Args:
        images: files, in a fixed order.
        img_size: side of the samples, in pixels.
        load_size: shorter side of the image that they are cut from.
        seed: of the random crops and flips; None gives center crops.
        scale_jitter: share by which the crop's side varies.
    """

    def __init__(
        self, images: Sequence[Path], img_size: int, load_size: int, seed: int | None, scale_jitter: float = 0.0
    ):
        super().__init__(img_size, seed, scale_jitter)
        self.images, self.load_size = list(images), load_size
        self.broken: set[int] = set()

    def __len__(self) -> int:
        return len(self.images)

    def load(self, index: int) -> np.ndarray:
        """Give image `index`, or the next one that can be used, as RGB (H, W, 3), uint8.

        Raises:
            UserError: none of the images can be used.
        """
        for candidate in chain(range(index, len(self.images)), range(index)):
            try:
                return load_rgb(self.images[candidate], self.load_size)
            except ImageError as error:
                if candidate not in self.broken:
                    self.broken.add(candidate)
                    print(f"skipped {self.images[candidate]}: {error}", file=sys.stderr, flush=True)
        raise UserError(f"{self.images[0].parent}: none of its {len(self.images)} images can be read")

    def to_planes(self, crop: np.ndarray) -> Sequence[np.ndarray]:
        """Convert a part of an image, which is cheaper than the whole, to planes of stored LAB."""
        return lab_planes(crop)
