"""Draw the picture that the README opens with: grayscale, colored by the default checkpoint, and the truth.

    python -m benchmarks.first_picture

Reads photographs that scikit-image ships, none of which the checkpoint has seen; writes docs/first_picture.png.
"""

from __future__ import annotations

import torch

from benchmarks.measure import ROOT
from config import DEFAULT_CHECKPOINT
from utils.checkpoint import load_generator, training_size
from utils.colorize import colorize, grayscale
from utils.images import Picture, center_crop, resize
from utils.sample_data import load_photo
from utils.visualization import GRAYSCALE, GROUND_TRUTH, save_comparison_figure

PHOTOS = ("chelsea", "astronaut")
SHAPE = 2, 3  # of the central part that is shown
HEIGHT = 256  # pixels


def main() -> None:
    """Color the photographs and draw them."""
    device = torch.device("cpu")
    generator, info = load_generator(DEFAULT_CHECKPOINT, device)
    columns: dict[str, list] = {GRAYSCALE: [], "lab_pix2pix": [], GROUND_TRUTH: []}
    for name in PHOTOS:
        photo = load_photo(name)
        unit = min(photo.shape[0] // SHAPE[0], photo.shape[1] // SHAPE[1])
        truth = Picture(resize(center_crop(photo, SHAPE[0] * unit, SHAPE[1] * unit), HEIGHT, HEIGHT * 3 // 2), None)
        pictures = grayscale(truth), colorize(generator, truth, training_size(info), device), truth
        for images, picture in zip(columns.values(), pictures, strict=True):
            images.append(picture.rgb)
    save_comparison_figure(ROOT / "docs" / "first_picture.png", columns)


if __name__ == "__main__":
    main()
