"""Measure every part of the project against the textbook loop, side by side.

    python -m benchmarks [--images-dir PHOTOGRAPHS] [--device cuda]

Reads a folder of JPEGs; without one, crops of the photographs that scikit-image ships. Prints one table and writes
benchmarks/results/<machine>.json. Both sides are timed in turns (A B A B) in one run; the figures are medians.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from skimage import data

from benchmarks import folders, loading, memory, textbook, training
from benchmarks.measure import ROOT, Row, copy_rate, machine_name, matmul_rate
from config import DEVICE
from utils import run
from utils.files import write_json
from utils.run import UserError

PARTS = ("loading", "training", "folders", "memory")


@dataclass(frozen=True)
class BenchmarkConfig:
    """Measure every part against the textbook loop."""

    images_dir: Path | None = None
    """Folder of JPEG photographs of COCO's size; crops of scikit-image's photographs when not given."""
    parts: tuple[str, ...] = PARTS
    """Which parts: loading, training, folders, memory."""
    device: str = DEVICE
    """cuda, mps or cpu."""
    images: int = 160
    """Images that are colored, scored and loaded; fewer are repeated."""
    turns: int = 2
    """Pairs of timings; loading takes twice as many and one."""
    steps: int = 4
    """Training steps in each timing; 50 are better on a GPU."""


def sample_photographs(folder: Path) -> list[Path]:
    """Write crops of 640 x 480 pixels of scikit-image's photographs as JPEGs."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    paths = []
    for name in ("astronaut", "coffee", "chelsea", "rocket"):
        photograph = cv2.resize(getattr(data, name)(), (900, 700), interpolation=cv2.INTER_CUBIC)
        for number in range(12):
            top, left = draw.integers(220), draw.integers(260)
            paths.append(folder / f"{name}_{number:02d}.jpg")
            cv2.imwrite(str(paths[-1]), photograph[top : top + 480, left : left + 640, ::-1])
    return paths


def repeat(images: Sequence[Path], count: int, folder: Path) -> Path:
    """Fill a folder with `count` copies of images under new names."""
    folder.mkdir()
    for number in range(count):
        shutil.copyfile(images[number % len(images)], folder / f"{number:06d}.jpg")
    return folder


def measure(cfg: BenchmarkConfig, work: Path, device: torch.device) -> list[Row]:
    """Run the parts in a working folder."""
    if unknown := set(cfg.parts) - set(PARTS):
        raise UserError(f"--parts {' '.join(sorted(unknown))}: give some of {' '.join(PARTS)}")
    images = sample_photographs(work / "photographs") if cfg.images_dir is None else []
    if cfg.images_dir is not None:
        images = [path for path in textbook.list_folder(cfg.images_dir) if path.suffix.lower() != ".png"]
        if not images:
            raise UserError(f"{cfg.images_dir}: no JPEGs there")
    some = repeat(images, cfg.images, work / "some")
    rows = []
    if "loading" in cfg.parts:
        rows += loading.measure(some, work, 2 * cfg.turns + 1)
    if "training" in cfg.parts:
        needed = (training.WARM_UP + cfg.steps) * 16
        enough = repeat(images, needed + needed // 8 + 16, work / "enough")
        caches = {}
        for size in (256, 128):
            caches[size] = work / f"textbook{size}", work / f"ours{size}"
            textbook.cache(textbook.list_folder(some), caches[size][0], size)
            loading.build(enough, caches[size][1], size * 286 // 256, os.cpu_count() or 1)
        rows += training.measure(enough, caches, work, device, cfg.turns, cfg.steps)
    if "folders" in cfg.parts:
        rows += folders.measure(some, work, device, cfg.turns)
    if "memory" in cfg.parts:
        few, many = (repeat(images, count, work / f"memory{count}") for count in (80, 800))
        rows += memory.measure(few, many, work, device)
    return rows


def table(rows: Sequence[Row]) -> str:
    """Lay the rows out as a Markdown table."""
    lines = [
        "| part | textbook | ours | unit | ratio | aim | conditions |",
        "| --- | ---: | ---: | --- | ---: | ---: | --- |",
    ]
    for row in rows:
        theirs = "" if row.textbook is None else f"{row.textbook:.4g}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}x"
        aim = "" if row.target is None else f"{row.target:g}x"
        lines.append(f"| {row.part} | {theirs} | {row.ours:.4g} | {row.unit} | {ratio} | {aim} | {row.note} |")
    return "\n".join(lines)


def benchmark(cfg: BenchmarkConfig) -> None:
    """Measure, print the table, and write it with the conditions."""
    started = time.perf_counter()
    device = run.set_up_device(cfg.device)
    with tempfile.TemporaryDirectory() as work:
        rows = measure(cfg, Path(work), device)
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    conditions = {
        "machine": machine_name(device),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "commit": run.git_commit(),
        "images": "scikit-image's photographs" if cfg.images_dir is None else cfg.images_dir.name,
        "versions": {"python": sys.version.split()[0], "torch": torch.__version__, "opencv": cv2.__version__},
        "matmul_gflops": {name: round(matmul_rate(device, dtype) / 1e9) for name, dtype in dtypes.items()},
        "copy_gigabytes": round(copy_rate(device) / 1e9, 1),
        "turns": cfg.turns,
        "seconds": round(time.perf_counter() - started),
    }
    print(table(rows))
    for name, value in conditions.items():
        print(f"{name}: {value}")
    path = ROOT / "benchmarks" / "results" / f"{conditions['machine']}.json"
    write_json(path, {**conditions, "rows": [asdict(row) for row in rows]})
    print(f"written to {path}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and give the exit code."""
    return run.run_script(BenchmarkConfig, benchmark, argv)


if __name__ == "__main__":
    sys.exit(main())
