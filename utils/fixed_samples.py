"""The same few images in every sample grid and comparison figure, chosen by their names."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

from utils.files import name_bytes


def choose_fixed_images(images: Sequence[Path], count: int) -> list[Path]:
    """Choose images by a stable hash of their file names.

    The choice does not depend on the order of `images`, their folder, the machine or a seed, and when
    one of them is missing, only that one is replaced: the same photographs can be followed from the first epoch
    of stage 1 to the report.

    Args:
        images: the held-out images.
        count: how many to choose; all of them when there are fewer.

    Returns:
        The images with the smallest hashes, smallest first.
    """
    return sorted(images, key=lambda image: (zlib.crc32(name_bytes(image.name)), image.as_posix()))[:count]
