"""Draw the two sheets of a model card: photographs, and what is hard about the images that people really have.

    python -m benchmarks.sheets weights/G_default.pt weights

Reads a G_*.pt file and photographs that scikit-image and matplotlib ship. Writes photographs.png and hard_cases.png.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import tyro
from skimage import data

from config import DEVICE
from utils import run
from utils.checkpoint import load_generator, training_size
from utils.colorize import colorize
from utils.images import Picture, center_crop, read_rgb, resize
from utils.sample_data import load_photo
from utils.visualization import GRAYSCALE, GROUND_TRUTH, generated_title, save_comparison_figure


@dataclass(frozen=True)
class SheetsConfig:
    """Draw the sheets of a model card."""

    checkpoint: tyro.conf.Positional[Path]
    """G_*.pt file."""
    output_dir: tyro.conf.Positional[Path]
    """Folder for photographs.png and hard_cases.png."""
    device: str = DEVICE
    """cuda, mps or cpu."""


def photographs() -> list[np.ndarray]:
    """Give photographs, (H, W, 3) uint8, whole and in parts."""
    names = ("astronaut", "chelsea", "coffee", "rocket", "stereo_motorcycle")
    whole = [load_photo(name) for name in names]
    hopper = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    return [*whole, read_rgb(hopper), center_crop(whole[0], 300, 300), whole[4][150:450, 60:360]]


def to_gray(rgb: np.ndarray) -> np.ndarray:
    """Convert (H, W, 3) to gray as television did (Rec. 601), three equal channels."""
    return cv2.cvtColor(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def hard_cases() -> dict[str, np.ndarray]:
    """Give gray images as people have them, (H, W, 3) uint8."""
    noise = np.random.default_rng(0)
    portrait, cat, coffee = (to_gray(load_photo(name)) for name in ("astronaut", "chelsea", "coffee"))
    old = np.clip(
        255 * (portrait / 255.0) ** 0.7 * 0.7 + 40 + noise.normal(0, 14, portrait.shape[:2])[..., None], 0, 255
    )
    old = cv2.copyMakeBorder(old.astype(np.uint8), 40, 60, 40, 40, cv2.BORDER_CONSTANT, value=(235, 235, 235))
    scan = cv2.copyMakeBorder(cat, 60, 60, 60, 60, cv2.BORDER_CONSTANT, value=(8, 8, 8))
    gray = {
        name: cv2.cvtColor(getattr(data, name)(), cv2.COLOR_GRAY2RGB) for name in ("camera", "page", "coins", "moon")
    }
    line_drawing = np.where(data.horse()[..., None], 255, 0).astype(np.uint8).repeat(3, axis=2)
    return {
        "old photograph": gray["camera"],
        "faded print, grain, border": old,
        "scan, black border": scan,
        "very dark": (coffee * 0.15).astype(np.uint8),
        "very bright": (255 - (255 - coffee) * 0.15).astype(np.uint8),
        "64 px thumbnail": resize(portrait, 64, 64),
        "12 megapixels": resize(coffee, 2800, 4200),
        "panorama": portrait[150:250],
        "line drawing": line_drawing,
        "printed page": gray["page"],
        "coins": gray["coins"],
        "moon": gray["moon"],
    }


def draw(cfg: SheetsConfig) -> None:
    """Color the images and write the sheets."""
    device = run.set_up_device(cfg.device)
    generator, info = load_generator(cfg.checkpoint, device)

    def color(rgb: np.ndarray) -> np.ndarray:
        return colorize(generator, Picture(rgb, None), training_size(info), device).rgb

    truth = photographs()
    title = generated_title("Default")
    columns = {GRAYSCALE: list(map(to_gray, truth)), title: list(map(color, truth)), GROUND_TRUTH: truth}
    save_comparison_figure(cfg.output_dir / "photographs.png", columns)

    cases = hard_cases()
    half = (len(cases) + 1) // 2
    names, images = list(cases), list(cases.values())
    left, right = slice(0, half), slice(half, None)
    sides = {}
    for side, mark in ((left, ""), (right, " ")):  # a column's title can occur once
        sides[f"Input{mark}"], sides[f"{title}{mark}"] = images[side], list(map(color, images[side]))
    save_comparison_figure(cfg.output_dir / "hard_cases.png", sides)
    run.say(f"{cfg.output_dir / 'hard_cases.png'}, by rows: {', '.join(names)}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and give the exit code."""
    return run.run_script(SheetsConfig, draw, argv)


if __name__ == "__main__":
    sys.exit(main())
