"""What an evaluation scores: the rows of its table, the images that it reads, and the scores of all processes."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from torch import Tensor

from config import MetricsConfig
from utils import lpips, metrics
from utils.images import (
    ImageError,
    center_crop,
    common_root,
    list_images,
    map_in_threads,
    read_rgb,
    resize,
)
from utils.outputs import name_outputs
from utils.run import UserError, gather, world_size
from utils.samples import image_keys
from utils.visualization import GROUND_TRUTH

# The columns that have a value for each image, with their decimals.
DECIMALS = {"PSNR": 2, "SSIM": 4, "MS-SSIM": 4, "Colorfulness": 2, "Delta colorfulness": 2}
DECIMALS |= {lpips.LPIPS_COLUMN: 4, lpips.STAND_IN_COLUMN: 4}


@dataclass(eq=False)
class Row:
    """A line of the table, and what is needed to fill it.

    Attributes:
        name: as the table shows it.
        source: where its colors come from, for the report.
        predict: maps L (B, 1, S, S), in [0, 100], to images (B, 3, S, S), uint8; None for finished images and the
            truth.
        files: of finished images, the file of each true image that has one.
        scores: title of a column -> (images,) values; NaN where it has none.
        missing: true images without a finished one that can be read, with the reason.
        shown: images for the figures, (S, S, 3) uint8.
    """

    name: str
    source: dict[str, object]
    predict: Callable[[Tensor], Tensor] | None = None
    files: dict[Path, Path] | None = None
    scores: dict[str, Tensor] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    shown: dict[Path, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """A true image as (S, S, 3) uint8, and the finished ones by row; the reason instead where one cannot be read.

    `index` is its place among all true images.
    """

    index: int
    path: Path
    truth: np.ndarray | str
    finished: dict[str, np.ndarray | str]


def match_files(name: str, folder: Path, images: Sequence[Path], images_dir: Path) -> dict[Path, Path]:
    """Find the finished image of each true one: of the same relative name, as infer_lab.py names it, or of its stem.

    Raises:
        UserError: the folder has none of them.
    """
    found = list_images(folder, recursive=True, mend=f"name the folder of --results {name}")
    index: dict[str, Path] = {}
    for path, key in zip(found, image_keys(folder, found), strict=True):
        index.setdefault(key, path)
        index.setdefault(key.removesuffix(path.suffix), path)
    root = os.path.abspath(common_root(images_dir, images))
    keys = [Path(os.path.abspath(image)).relative_to(root).as_posix() for image in images]
    outputs = [output.as_posix() for output in name_outputs([Path(key) for key in keys])]
    stems = [key.removesuffix(image.suffix) for key, image in zip(keys, images, strict=True)]
    uses = Counter(stems)  # a.jpg and a.png cannot both be matched to one a.webp
    files = {}
    for image, key, output, stem in zip(images, keys, outputs, stems, strict=True):
        match = index.get(key) or index.get(output) or (index.get(stem) if uses[stem] == 1 else None)
        if match:
            files[image] = match
    if not files:
        raise UserError(f"--results {name} {folder}: no image there has the name of one of {images_dir}")
    return files


def load_square(path: Path, cfg: MetricsConfig) -> np.ndarray | str:
    """Read an image as (S, S, 3) uint8 by the protocol, or say why it cannot be read."""
    try:
        rgb = read_rgb(path)
    except ImageError as error:
        return str(error)
    if cfg.protocol == "center-crop":
        rgb = center_crop(rgb, min(rgb.shape[:2]), min(rgb.shape[:2]))
    return resize(rgb, cfg.img_size, cfg.img_size)


def read_batches(
    images: Sequence[tuple[int, Path]], rows: Sequence[Row], cfg: MetricsConfig
) -> Iterator[list[Sample]]:
    """Read true images, each with its place among all of them, and the finished ones, ahead in threads."""

    def load(item: tuple[int, Path]) -> Sample:
        index, path = item
        finished = {row.name: load_square(row.files[path], cfg) for row in rows if row.files and path in row.files}
        return Sample(index, path, load_square(path, cfg), finished)

    samples = map_in_threads(load, images, cfg.num_workers)
    while batch := list(islice(samples, cfg.batch_size)):
        yield batch


def merge_processes(
    images: Sequence[Path], rows: Sequence[Row], fid: metrics.FID | None, skipped: dict[str, str]
) -> dict[str, str]:
    """Put together what the processes scored, in the order of the images; give what all of them skipped."""

    def in_order(reasons: Sequence[dict[str, str]]) -> dict[str, str]:
        merged = {path: reason for part in reasons for path, reason in part.items()}
        return {str(path): merged[str(path)] for path in images if str(path) in merged}

    for row in rows:
        for number, scores in enumerate(gather(row.scores)):
            share = slice(number, None, world_size())
            for title in scores:
                row.scores[title][share] = scores[title][share]
        row.missing = in_order(gather(row.missing))
    if fid:
        fid.merge([row.name for row in rows if row.name != GROUND_TRUTH])
    return in_order(gather(skipped))


def extremes(row: Row) -> dict[str, int]:
    """Give the places of a row's best, median and worst image by PSNR, as far as they are different ones.

    The median is the better one of the two in the middle; of equal images the first in order counts.
    """
    psnr = row.scores["PSNR"]
    descending = [i for i in psnr.argsort(descending=True, stable=True).tolist() if not psnr[i].isnan()]
    places = {"best": 0, "median": (len(descending) - 1) // 2, "worst": len(descending) - 1}
    chosen: dict[str, int] = {}
    for name in ("best", "worst", "median") if descending else ():
        if descending[places[name]] not in chosen.values():
            chosen[name] = descending[places[name]]
    return {name: chosen[name] for name in places if name in chosen}


def make_table(rows: Sequence[Row], fid: metrics.FID | None) -> list[dict[str, object]]:
    """Average each row's scores; a column that no row has is left out."""
    table = []
    for row in rows:
        scores = {title: values[~values.isnan()] for title, values in row.scores.items()}
        line = {"Model": row.name, **{title: metrics.mean_score(values) for title, values in scores.items()}}
        if fid:
            line[fid.column] = fid.score(None if row.name == GROUND_TRUTH else row.name)
        table.append({**line, "Images": len(scores["SSIM"])})
    undefined = {title for title in rows[0].scores if all(math.isnan(line[title]) for line in table)}
    return [{title: value for title, value in line.items() if title not in undefined} for line in table]


def format_score(title: str, value: object) -> str:
    """Write a cell of the table."""
    return f"{value:.{DECIMALS.get(title, 2)}f}" if isinstance(value, float) else str(value)
