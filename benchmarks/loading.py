"""Compare how fast samples come from the cache and from image files.

    python -m benchmarks.loading --images-dir data/coco/val2017

Builds a cache of the images in a temporary folder, then times the two datasets in one process, in turns, and prints
the medians and their ratio.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import torch
from torch.utils.data import Dataset

from config import DATA_ROOT
from dataset_lab_cache import LabCacheDataset, cache_folder
from dataset_lab_subset import LabSubsetDataset
from utils.images import FIRST, list_images
from utils.run import git_commit, run_script
from utils.samples import image_keys, source_hash


@dataclass(frozen=True)
class LoadingConfig:
    """Compare how fast samples come from the cache and from image files."""

    images_dir: Path = DATA_ROOT / "val2017"
    """Folder of images, or a text file with one path a line."""
    img_size: int = 256
    """Side of the samples, in pixels."""
    load_size: int = 286
    """Shorter side of the image that they are cut from, in pixels."""
    turns: int = 7
    """How often each is timed."""


def seconds_a_sample(dataset: Dataset, epoch: int) -> float:
    """Time one pass over a dataset in this process."""
    started = time.perf_counter()
    for index in range(len(dataset)):
        dataset[(epoch, index)]
    return (time.perf_counter() - started) / len(dataset)


def compare(cfg: LoadingConfig) -> None:
    """Time both datasets and print the result."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    images = list_images(cfg.images_dir, mend=FIRST)
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--images-dir", str(cfg.images_dir), "--cache-dir", folder, "--load-size", str(cfg.load_size)]
        subprocess.run([sys.executable, "cache_lab.py", *arguments], check=True)
        cache = cache_folder(Path(folder), cfg.images_dir)
        source = source_hash(cfg.images_dir, images)
        index = LabCacheDataset.open_index(cache, cfg.images_dir, source, cfg.load_size)
        names = dict(zip(images, image_keys(cfg.images_dir, images), strict=True))
        readable = [path for path in images if names[path] in index.entries]
        from_cache = LabCacheDataset(index, [names[path] for path in readable], cfg.img_size, seed=0)
        from_files = LabSubsetDataset(readable, cfg.img_size, cfg.load_size, seed=0)
        turns = [
            (seconds_a_sample(from_files, turn), seconds_a_sample(from_cache, turn)) for turn in range(cfg.turns + 1)
        ]
    files, cached = (statistics.median(column) * 1e3 for column in zip(*turns[1:], strict=True))  # the first warms up
    print(f"{len(readable)} images, samples of {cfg.img_size} px, one process, median of {cfg.turns}, {git_commit()}")
    print(f"from files {files:.2f} ms, from the cache {cached:.3f} ms a sample: {files / cached:.1f} times as fast")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and give the exit code."""
    return run_script(LoadingConfig, compare, argv)


if __name__ == "__main__":
    sys.exit(main())
