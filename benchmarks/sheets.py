"""Draw what a checkpoint makes of photographs: the two sheets of its model card, and the picture of the README.

    python -m benchmarks.sheets weights/G_default.pt weights [--first-picture docs/first_picture.png]
    python -m benchmarks.sheets weights/G_default.pt weights --old-photographs docs/old_photographs.png

Reads a G_*.pt file and photographs that scikit-image and matplotlib ship. Writes photographs.png and hard_cases.png,
and with --old-photographs that figure: a sepia print and a scan with a border, before and after.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import tyro
from skimage import data

from benchmarks.measure import make_main
from config import DEVICE
from utils import run
from utils.coloring.borders import cut_border, find_border, put_back
from utils.coloring.colorize import colorize, grayscale
from utils.coloring.exported import open_generator
from utils.data.sample_set import load_photo
from utils.images import Picture, center_crop, read_rgb, resize
from utils.training.checkpoints import working_size
from utils.visualization import GRAYSCALE, GROUND_TRUTH, generated_title, save_comparison_figure


@dataclass(frozen=True)
class SheetsConfig:
    """Draw the sheets of a model card."""

    checkpoint: tyro.conf.Positional[Path]  # G_*.pt file.
    output_dir: tyro.conf.Positional[Path]  # Folder for photographs.png and hard_cases.png.
    first_picture: Path | None = None  # PNG file for two photographs, as the README shows them.
    old_photographs: Path | None = None  # PNG file for a sepia print and a bordered scan.
    device: str = DEVICE  # cuda, mps or cpu.


def photographs() -> list[np.ndarray]:
    """Return photographs, (H, W, 3) uint8, whole and in parts."""
    whole = [load_photo(name) for name in ("astronaut", "chelsea", "coffee", "rocket", "stereo_motorcycle")]
    hopper = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    return [*whole, read_rgb(hopper), center_crop(whole[0], 300, 300), whole[4][150:450, 60:360]]


def to_gray(rgb: np.ndarray) -> np.ndarray:
    """Convert (H, W, 3) to the gray of video (Rec. 601), three equal channels."""
    return cv2.cvtColor(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def hard_cases() -> dict[str, np.ndarray]:
    """Return gray images as people have them, (H, W, 3) uint8."""
    portrait, cat, coffee = (to_gray(load_photo(name)) for name in ("astronaut", "chelsea", "coffee"))
    camera, page, coins, moon = (
        cv2.cvtColor(getattr(data, name)(), cv2.COLOR_GRAY2RGB) for name in ("camera", "page", "coins", "moon")
    )
    grain = np.random.default_rng(0).normal(0, 14, portrait.shape[:2])[..., None]
    faded = np.clip(255 * (portrait / 255.0) ** 0.7 * 0.7 + 40 + grain, 0, 255).astype(np.uint8)
    margin = cv2.BORDER_CONSTANT
    return {
        "old photograph": camera,
        "faded print, grain, border": cv2.copyMakeBorder(faded, 40, 60, 40, 40, margin, value=(235, 235, 235)),
        "scan, black border": cv2.copyMakeBorder(cat, 60, 60, 60, 60, margin, value=(8, 8, 8)),
        "very dark": (coffee * 0.15).astype(np.uint8),
        "very bright": (255 - (255 - coffee) * 0.15).astype(np.uint8),
        "64 px thumbnail": resize(portrait, 64, 64),
        "12 megapixels": resize(coffee, 2800, 4200),
        "panorama": portrait[150:250],
        "line drawing": np.where(data.horse()[..., None], 255, 0).astype(np.uint8).repeat(3, axis=2),
        "printed page": page,
        "coins": coins,
        "moon": moon,
    }


def old_photographs() -> dict[str, np.ndarray]:
    """Return photographs as albums and scanners give them, (H, W, 3) uint8: sepia, and sepia with a paper border."""
    portrait, cat = load_photo("astronaut"), load_photo("chelsea")
    sepia = np.array([[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]])  # the usual matrix
    prints = [np.clip(rgb @ sepia.T, 0, 255).round().astype(np.uint8) for rgb in (portrait[:300, 60:420], cat)]
    paper = cv2.copyMakeBorder(prints[1], 30, 50, 30, 30, cv2.BORDER_CONSTANT, value=(238, 228, 208))
    return {"sepia print": prints[0], "scan with a border": paper}


def draw(cfg: SheetsConfig) -> None:
    """Color the images and write the figures."""
    device = run.set_up_device(cfg.device)
    generator, info = open_generator(cfg.checkpoint, device)
    size = working_size(info)

    def color(rgb: np.ndarray) -> np.ndarray:
        picture, border = Picture(rgb, None), find_border(rgb)
        return put_back(picture, border, colorize(generator, cut_border(picture, border), size, device)).rgb

    if cfg.old_photographs:
        before = list(old_photographs().values())
        save_comparison_figure(cfg.old_photographs, {"Before": before, "After": list(map(color, before))})
    truth, title = photographs(), generated_title("Default")
    columns = {GRAYSCALE: list(map(to_gray, truth)), title: list(map(color, truth)), GROUND_TRUTH: truth}
    save_comparison_figure(cfg.output_dir / "photographs.png", columns)

    names, images = zip(*hard_cases().items(), strict=True)
    half = (len(names) + 1) // 2
    sides: dict[str, list] = {}
    for side, mark in ((images[:half], ""), (images[half:], " ")):  # no two columns can have the same title
        sides |= {f"Input{mark}": side, f"{title}{mark}": list(map(color, side))}
    save_comparison_figure(cfg.output_dir / "hard_cases.png", sides)
    run.say(f"{cfg.output_dir / 'hard_cases.png'}, by rows: {', '.join(names)}")

    if cfg.first_picture:
        pairs = [(rgb, min(rgb.shape[0] // 2, rgb.shape[1] // 3)) for rgb in (truth[1], truth[5])]
        shown = [resize(center_crop(rgb, 2 * unit, 3 * unit), 256, 384) for rgb, unit in pairs]
        gray = [grayscale(Picture(rgb, None)).rgb for rgb in shown]
        columns = {GRAYSCALE: gray, "lab_pix2pix": list(map(color, shown)), GROUND_TRUTH: shown}
        save_comparison_figure(cfg.first_picture, columns)


main = make_main(SheetsConfig, draw)

if __name__ == "__main__":
    sys.exit(main())
