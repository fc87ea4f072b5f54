"""Samples decoded from image files on the fly; `dataset_lab_cache.py` gives the same ones from the cache."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor
from torch.utils.data import Dataset

from utils.images import ImageError
from utils.run import UserError
from utils.samples import cut_sample, load_lab, sample_rng


class LabSubsetDataset(Dataset[tuple[Tensor, Tensor]]):
    """Read (L, ab) samples from image files.

    An image that cannot be used is named once on stderr and replaced by the next one in the list.

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
        self.images = list(images)
        self.img_size, self.load_size = img_size, load_size
        self.seed, self.scale_jitter = seed, scale_jitter
        self.broken: set[int] = set()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Give L (1, S, S) and ab (2, S, S), uint8, of an index, or of (epoch, index) for random crops.

        Raises:
            UserError: none of the images can be used.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        rng = None if self.seed is None else sample_rng(self.seed, epoch, index)
        for candidate in [*range(index, len(self.images)), *range(index)]:
            try:
                lab = load_lab(self.images[candidate], self.load_size)
            except ImageError as error:
                if candidate not in self.broken:
                    self.broken.add(candidate)
                    print(f"skipped {self.images[candidate]}: {error}", file=sys.stderr, flush=True)
                continue
            return cut_sample(lab, self.img_size, rng, self.scale_jitter)
        raise UserError(f"{self.images[0].parent}: none of its {len(self.images)} images can be read")
