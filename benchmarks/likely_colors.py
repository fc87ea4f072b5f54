"""Count which colors photographs have at each lightness: the table of `utils.coloring.palette`.

    python -m benchmarks.likely_colors --images-dirs PHOTOGRAPHS MORE_PHOTOGRAPHS

Reads a sample of the photographs; prints LIKELY_AB. At each of LEVELS of L it counts, for squares of ab, the
photographs that hold the color, so that a large sky counts once. The most frequent colors are taken one after the
other, each at least DISTANCE from those before.
"""

import random
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from benchmarks.measure import make_main
from config import CORES
from utils import run
from utils.coloring.palette import COLORS, LEVELS
from utils.files import list_images
from utils.images import ImageError, read_rgb, resize
from utils.lab import rgb_to_lab

SIDE = 96  # pixels: what is smaller in a photograph is not counted
SPAN, CELL = 110, 4  # CIELAB units: ab in [-SPAN, SPAN], in squares of CELL
DISTANCE = 24.0  # CIELAB units between two colors of a level: where nine of them reach the colors of grass and sky
LEAST = 3  # pixels of a photograph of one color


@dataclass(frozen=True)
class LikelyColorsConfig:
    """Count which colors photographs have at each lightness."""

    images_dirs: tuple[Path, ...]  # Folders of photographs, or text files with one path a line.
    images: int = 4000  # How many of them.
    seed: int = 0  # Of the sample.


def count_colors(path: Path) -> np.ndarray:
    """Tell which squares of ab a photograph holds at each level of L: (LEVELS, N, N), bool."""
    n = 2 * SPAN // CELL
    counts = np.zeros((LEVELS, n, n), np.int64)
    try:
        rgb = torch.from_numpy(resize(read_rgb(path), SIDE, SIDE))
    except ImageError as error:
        run.say(f"skipped {path}: {error}")
        return counts > 0
    l, a, b = rgb_to_lab(rgb.permute(2, 0, 1) / 255).flatten(1).numpy()
    level = np.minimum(l * LEVELS / 100, LEVELS - 1).astype(int)
    np.add.at(counts, (level, ((a + SPAN) / CELL).astype(int), ((b + SPAN) / CELL).astype(int)), 1)
    return counts >= LEAST


def choose_colors(counts: np.ndarray) -> list[tuple[int, int]]:
    """Choose the COLORS most frequent colors of a level that are DISTANCE apart, from counts (N, N)."""
    centers = np.arange(len(counts)) * CELL - SPAN + CELL // 2
    a, b = np.meshgrid(centers, centers, indexing="ij")
    left = gaussian_filter(counts, 1.0)
    chosen: list[tuple[int, int]] = []
    while len(chosen) < COLORS:
        index = np.unravel_index(left.argmax(), left.shape)
        chosen.append((int(a[index]), int(b[index])))
        left[np.hypot(a - a[index], b - b[index]) < DISTANCE] = -1
    return chosen


def print_table(cfg: LikelyColorsConfig) -> None:
    """Count the colors of a sample, and print the table as Python."""
    images = [path for folder in cfg.images_dirs for path in list_images(folder)]
    sample = random.Random(cfg.seed).sample(images, min(cfg.images, len(images)))
    totals = sum(run.map_in_threads(count_colors, sample, CORES), np.zeros((), np.float64))
    for level in np.asarray(totals, np.float64):
        print(f"    {tuple(choose_colors(level))},")


main = make_main(LikelyColorsConfig, print_table)

if __name__ == "__main__":
    sys.exit(main())
