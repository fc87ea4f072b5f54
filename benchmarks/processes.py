"""Whole processes: their time from disk to disk, their peak memory, and coloring by PyTorch and by onnxruntime."""

import functools
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import cv2
import torch
from PIL import Image
from torch import nn

from benchmarks import textbook
from benchmarks.measure import Row, compare, medians, repeat, run_python, seconds
from config import DEFAULT_CHECKPOINT, TrainConfig
from models_lab import GeneratorUNet
from utils import run
from utils.coloring.colorize import cast_convolutions
from utils.coloring.exported import open_generator
from utils.coloring.folders import MOST_PIXELS
from utils.data.sample_set import load_photo
from utils.images import read_rgb
from utils.training import checkpoints

BASE, BYTES_PER_PIXEL = 800.0, 22.0  # limits of a large image's memory, the former in 10**6 bytes: libraries, network
TINY = "--epochs 1 --img-size 128 --load-size 143 --batch-size 8 --val-fraction 0.1 --encoder none"
TINY += " --gen-width 8 --disc-width 8"
METRICS = "calculate_metrics.py --inception-weights none --lpips-weights none --images-dir"
PNG = "--format png"  # as the textbook writes
CPU = torch.device("cpu")


def save_generator(path: Path, generator: nn.Module, img_size: int) -> Path:
    """Write a generator with random weights as a checkpoint, which the textbook reads as well."""
    info = checkpoints.describe("subset", 0, 0, TrainConfig(img_size=img_size), {})
    checkpoints.save_network(path, cast(GeneratorUNet, generator), info)  # or the textbook's
    return path


def make_squares(images: Sequence[Path], folder: Path, suffix: str) -> Path:
    """Write images in the textbook's size, at which it returns them."""
    folder.mkdir()
    for path in images:
        square = cv2.resize(read_rgb(path), (textbook.SIZE, textbook.SIZE), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(folder / f"{path.stem}{suffix}"), square[:, :, ::-1])
    return folder


def measure_folders(images_dir: Path, folder: Path, device: torch.device, turns: int) -> Iterator[Row]:
    """Compare the time of whole processes that color the images, and that score results; `folder` is to work in."""
    images, output = sorted(images_dir.iterdir()), folder / "output"

    def milliseconds(*command: object) -> float:
        shutil.rmtree(output, ignore_errors=True)
        return run_python(*command)[0] / len(images) * 1e3

    def row(part: str, aim: float, theirs: Sequence[object], ours: Sequence[object], note: str) -> Row:
        pair = medians(
            turns,
            lambda: milliseconds("-m benchmarks.textbook", device, *theirs),
            lambda: milliseconds(*ours, "--device", device, "--output-dir", output),
        )
        return compare(part, "ms/image", pair, aim, note)

    weights = save_generator(folder / "textbook.pt", textbook.Generator(), textbook.SIZE)
    squares = make_squares(images, folder / "squares", ".jpg")
    results = [make_squares(images, folder / f"results{i}", ".png") for i in range(3)]
    named = [word for i, result in enumerate(results) for word in (f"R{i}", result)]
    theirs = ["infer", squares, weights, output]
    ours = ["-m benchmarks.textbook ours infer_lab.py", squares, weights, PNG]
    note = f"textbook's generator, {len(images)} images of 256 x 256, whole process"
    yield row("coloring a folder", 5 if device.type == "cuda" else 3, theirs, ours, note)
    note = f"{DEFAULT_CHECKPOINT.name}, {len(images)} JPEGs to JPEGs of their size; textbook's are PNGs of 256 x 256"
    theirs, ours = ["infer", images_dir, weights, output], ["infer_lab.py", images_dir, DEFAULT_CHECKPOINT]
    yield row("coloring a folder, default checkpoint", 6, theirs, ours, note)
    theirs, ours = ["metrics", images_dir, *results], [METRICS, images_dir, "--results", *named]
    note = f"{len(images)} images, three folders of results, no FID, no LPIPS; ours adds the two reference rows"
    yield row("metrics of three models", 4, theirs, ours, note)


def measure_memory(photographs: Sequence[Path], folder: Path, device: torch.device) -> Iterator[Row]:
    """Measure the peak memory of each script on 40 images and on 160, and of coloring large ones."""
    generator = save_generator(folder / "small.pt", GeneratorUNet(width=8, depth=4), 128)
    output = folder / "memory"
    peaks: dict[str, list[float]] = {}
    for count in (40, 160):
        images = repeat(photographs, count, folder / f"memory{count}")
        for name, *arguments in (
            ("train_lab.py", TINY, "--images-dir", images, "--device", device, "--output-dir"),
            ("cache_lab.py", "--images-dir", images, "--cache-dir"),
            ("infer_lab.py", images, generator, "--device", device, "--output-dir"),
            (METRICS, images, "--checkpoint Small", generator, "--device", device, "--output-dir"),
        ):
            shutil.rmtree(output, ignore_errors=True)
            peaks.setdefault(name.split()[0], []).append(run_python(name, *arguments, output)[1])
    for name, (few, many) in peaks.items():
        note = f"40 images: {few:.0f} MB, 160 images: {many / few - 1:+.1%}"
        yield Row(f"peak memory of {name}", "MB", many, note=note)
    for name, megapixels, count in (("100 megapixels", 100, 1), ("four images of 60 megapixels", 60, 4)):
        peak, limit = color_large_images(megapixels, folder, count)
        yield Row(f"peak memory of {name}", "MB", peak, note=f"infer_lab.py; limit {limit:.0f} MB")


def color_large_images(megapixels: int, folder: Path, count: int = 1) -> tuple[float, float]:
    """Color copies of an enlarged photograph on the CPU; return the peak memory and its limit, in 10**6 bytes."""
    width = round((megapixels * 1e6 * 4 / 3) ** 0.5)
    height = round(megapixels * 1e6 / width)
    generator = save_generator(folder / "small.pt", GeneratorUNet(width=8, depth=4), 128)
    enlarged = cv2.resize(load_photo("astronaut"), (width, height), interpolation=cv2.INTER_LINEAR)
    cv2.imwrite(str(folder / "large.jpg"), enlarged[:, :, ::-1])
    images, output = repeat([folder / "large.jpg"], count, folder / f"large{count}"), folder / f"colored{count}"
    _, peak = run_python("infer_lab.py", images, generator, PNG, "--device cpu --output-dir", output)
    assert len(list(output.iterdir())) == count
    for path in output.iterdir():
        with Image.open(path) as colored:
            assert colored.size == (width, height)
    pixels = max(width * height, min(count * width * height, MOST_PIXELS))
    return peak, BASE + BYTES_PER_PIXEL * pixels / 1e6


def measure_export(folder: Path, turns: int) -> Iterator[Row]:
    """Time the default checkpoint in onnxruntime and in PyTorch, on the CPU."""
    run_python("export_lab.py", DEFAULT_CHECKPOINT, "--output-dir", folder)
    exported, _ = open_generator(folder / f"{DEFAULT_CHECKPOINT.stem}.onnx", CPU)
    generator, _ = open_generator(DEFAULT_CHECKPOINT, CPU)
    sides: list[tuple[nn.Module, torch.dtype | None]] = [(exported, None), (generator, None)]
    if dtype := run.amp_dtype(CPU, True):  # what infer_lab.py computes in
        mixed, _ = open_generator(DEFAULT_CHECKPOINT, CPU)
        cast_convolutions(mixed, dtype)
        sides.append((mixed, dtype))

    @torch.inference_mode()
    def milliseconds(generator: nn.Module, dtype: torch.dtype | None, shape: tuple[int, ...]) -> float:
        l = torch.rand(shape) * 2 - 1
        with run.autocast(CPU, dtype):
            return seconds(lambda: generator(l)) / shape[0] * 1e3

    for shape in ((1, 1, 128, 192), (8, 1, 128, 192), (1, 1, 256, 384)):
        took, *others = medians(turns, *(functools.partial(milliseconds, *side, shape) for side in sides))
        times = [f"{ms:.1f} ms in {dtype or torch.float32}" for ms, (_, dtype) in zip(others, sides[1:], strict=True)]
        note = f"PyTorch: {', '.join(times)}".replace("torch.", "")
        yield Row(f"onnxruntime, {shape[0]} of {shape[2]} x {shape[3]}", "ms/image", took, note=note)
