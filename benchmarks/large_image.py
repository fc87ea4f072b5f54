"""Color one large image, and measure the peak memory of the process: under 3 GB for 100 megapixels on a CPU.

    python -m benchmarks.large_image [--megapixels 100]

The image is an enlarged photograph of scikit-image's. Exit code 1 if the memory exceeds BASE + BYTES_PER_PIXEL.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import tyro
from PIL import Image
from skimage import data

from benchmarks.folders import save_generator
from benchmarks.measure import peak_megabytes
from models_lab import GeneratorUNet
from utils import run

BASE = 800.0  # 10**6 bytes: Python with its libraries, and the network
BYTES_PER_PIXEL = 22.0


@dataclass(frozen=True)
class LargeImageConfig:
    """Color one large image, and measure the peak memory."""

    megapixels: int = 100
    """Size of the image."""


def large_image(cfg: LargeImageConfig) -> int:
    """Measure, print, and give the exit code."""
    width = round((cfg.megapixels * 1e6 * 4 / 3) ** 0.5)
    height = round(cfg.megapixels * 1e6 / width)
    with tempfile.TemporaryDirectory() as work:
        generator = save_generator(Path(work) / "G_any.pt", GeneratorUNet(width=8, depth=4), 128)
        enlarged = cv2.resize(data.astronaut(), (width, height), interpolation=cv2.INTER_LINEAR)
        path = Path(work) / "large.jpg"
        cv2.imwrite(str(path), enlarged[:, :, ::-1])
        started = time.perf_counter()
        peak = peak_megabytes("infer_lab.py", path, generator, "--output-dir", f"{work}/out", "--device", "cpu")
        seconds = time.perf_counter() - started
        with Image.open(Path(work) / "out" / "large.png") as colored:
            assert colored.size == (width, height)
    limit = BASE + BYTES_PER_PIXEL * width * height / 1e6
    run.say(f"{width} x {height}: peak memory {peak:.0f} MB, limit {limit:.0f} MB; {seconds:.0f} s")
    return int(peak > limit)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and give the exit code."""
    return large_image(tyro.cli(LargeImageConfig, args=argv, prog="python -m benchmarks.large_image"))


if __name__ == "__main__":
    sys.exit(main())
