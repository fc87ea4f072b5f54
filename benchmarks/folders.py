"""Whole processes from disk to disk: coloring a folder, and the metrics."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import torch

from benchmarks import textbook
from benchmarks.measure import Row, compare, in_turns, run_python
from config import TrainConfig
from models_lab import GeneratorUNet
from utils import checkpoint


def save_generator(path: Path, generator: torch.nn.Module, img_size: int) -> Path:
    """Write a generator with random weights as a checkpoint, which the textbook reads as well."""
    info = checkpoint.describe("subset", checkpoint.Position(), TrainConfig(img_size=img_size), {})
    checkpoint.save_network(path, generator, info)
    return path


def make_results(images: list[Path], folder: Path) -> Path:
    """Write finished images, as PNG of the textbook's size: the truth, less of its saturation."""
    folder.mkdir(parents=True)
    for path in images:
        image = cv2.resize(cv2.imread(str(path)), (textbook.SIZE, textbook.SIZE), interpolation=cv2.INTER_AREA)
        gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
        cv2.imwrite(str(folder / f"{path.stem}.png"), cv2.addWeighted(image, 0.6, gray, 0.4, 0))
    return folder


def make_squares(images: list[Path], folder: Path) -> Path:
    """Write images as JPEGs of the textbook's size, which the textbook returns at their own size, as ours does."""
    folder.mkdir(parents=True)
    for path in images:
        image = cv2.resize(cv2.imread(str(path)), (textbook.SIZE, textbook.SIZE), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(folder / f"{path.stem}.jpg"), image)
    return folder


def measure(images_dir: Path, folder: Path, device: torch.device, turns: int) -> list[Row]:
    """Time both sides as whole processes.

    Args:
        images_dir: JPEGs.
        folder: to work in.
        device: where the networks run.
        turns: pairs.
    """
    gpu = device.type == "cuda"
    images = textbook.list_folder(images_dir)
    squares = make_squares(images, folder / "squares")
    theirs = save_generator(folder / "textbook.pt", textbook.Generator(), textbook.SIZE)
    default = save_generator(folder / "default.pt", GeneratorUNet(), textbook.SIZE)

    def color(*command: object) -> float:
        shutil.rmtree(folder / "colored", ignore_errors=True)
        return run_python(*command) / len(images) * 1e3

    ours = ["--output-dir", folder / "colored", "--device", device]
    pair = in_turns(
        turns,
        lambda: color("-m", "benchmarks.textbook", device, "infer", squares, theirs, folder / "colored"),
        lambda: color("-m", "benchmarks.swapped", "infer_lab.py", squares, theirs, *ours),
        warm_up=False,
    )
    note = f"textbook's generator, {len(images)} images of 256 x 256, whole process"
    rows = [compare("coloring a folder", "ms/image", *pair, 5 if gpu else 3, note)]
    pair = in_turns(
        turns,
        lambda: color("-m", "benchmarks.textbook", device, "infer", images_dir, theirs, folder / "colored"),
        lambda: color("infer_lab.py", images_dir, default, *ours),
        warm_up=False,
    )
    note = "default generator; textbook's results are 256 x 256, ours the inputs' size"
    rows.append(compare("coloring a folder of full-size images", "ms/image", *pair, None, note))

    results = [make_results(images, folder / f"results{i}") for i in range(3)]
    named = [argument for i, result in enumerate(results) for argument in (f"R{i}", result)]
    command = ["calculate_metrics.py", "--images-dir", images_dir, "--results", *named, "--inception-weights", "none"]
    command += ["--lpips-weights", "none", "--output-dir", folder / "evaluation", "--device", device]
    pair = in_turns(
        turns,
        lambda: run_python("-m", "benchmarks.textbook", device, "metrics", images_dir, *results) / len(images) * 1e3,
        lambda: run_python(*command) / len(images) * 1e3,
        warm_up=False,
    )
    note = f"{len(images)} images, three folders of results, without FID and LPIPS; ours adds the two reference rows"
    return [*rows, compare("metrics of three models", "ms/image", *pair, 4, note)]
