"""Peak memory of whole processes when the data grows tenfold."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from benchmarks.folders import save_generator
from benchmarks.measure import Row, peak_megabytes
from models_lab import GeneratorUNet


def measure(few: Path, many: Path, folder: Path, device: torch.device) -> list[Row]:
    """Run each script on a folder of images and on one of ten times as many.

    Args:
        few: images.
        many: ten times as many of the same.
        folder: to work in.
        device: where to compute.
    """
    generator = save_generator(folder / "small.pt", GeneratorUNet(width=8, depth=4), 128)
    output = folder / "memory"
    tiny = "--epochs 1 --img-size 128 --load-size 143 --batch-size 8 --val-fraction 0.1 --gen-width 8 --disc-width 8"
    metrics = ["--inception-weights", "none", "--lpips-weights", "none", "--output-dir", output, "--device", device]

    def commands(images: Path) -> list[list[object]]:
        return [
            ["train_lab.py", "--images-dir", images, "--output-dir", output, "--device", device, *tiny.split()],
            ["cache_lab.py", "--images-dir", images, "--cache-dir", output],
            ["infer_lab.py", images, generator, "--output-dir", output, "--device", device],
            ["calculate_metrics.py", "--images-dir", images, "--checkpoint", "small", generator, *metrics],
        ]

    counts = [len(list(images.iterdir())) for images in (few, many)]
    rows = []
    for pair in zip(commands(few), commands(many), strict=True):
        peaks = []
        for command in pair:
            shutil.rmtree(output, ignore_errors=True)
            peaks.append(peak_megabytes(*command))
        note = f"{counts[0]} images: {peaks[0]:.0f} MB, {counts[1]} images: {peaks[1] / peaks[0] - 1:+.1%}"
        rows.append(Row(f"peak memory of {pair[0][0]}", "MB", peaks[1], note=note))
    return rows
