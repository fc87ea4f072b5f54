"""The rows of an evaluation: their sources, the images they are scored on, and their scores.

Uses the sample names of `utils.data` and the output names of `utils.coloring`.
"""

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
from utils.collectives import gather
from utils.coloring.outputs import name_outputs
from utils.data.samples import image_keys
from utils.files import common_root, list_images
from utils.images import ImageError, center_crop, read_rgb, resize
from utils.report.fid import FID
from utils.report.lpips import LPIPS_COLUMN, LPIPS_STAND_IN_COLUMN
from utils.report.metrics import mean_score
from utils.run import UserError, map_in_threads, world_size
from utils.visualization import GROUND_TRUTH

# Columns with a value for each image, and their decimals.
DECIMALS = {"PSNR": 2, "SSIM": 4, "MS-SSIM": 4, "Colorfulness": 2, "Delta colorfulness": 2}
DECIMALS |= {LPIPS_COLUMN: 4, LPIPS_STAND_IN_COLUMN: 4}
Table = dict[str, dict[str, float]]  # row -> column -> score


@dataclass(eq=False)
class Row:
    """A row of the table, and what is needed to fill it.

    Attributes:
        name: in the table.
        source: where its colors come from, for the report.
        predict: maps L (B, 1, S, S), in [0, 100], to images (B, 3, S, S), uint8; None for finished images and the
            truth.
        files: for finished images, true image -> file, of those that have one.
        scores: column -> values (images,); NaN where there is none.
        missing: true image -> why it has no finished one that can be read.
        shown: true image -> image for the figures, (S, S, 3) uint8.
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
    """A true image, the finished images of it, and what could not be read.

    Attributes:
        index: of the true image, among all of them.
        path: of the true image.
        images: row -> (S, S, 3) uint8; GROUND_TRUTH -> the true image.
        problems: row -> why it has no image.
    """

    index: int
    path: Path
    images: dict[str, np.ndarray] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    @property
    def truth(self) -> np.ndarray:
        """The true image, if it can be read."""
        return self.images[GROUND_TRUTH]


def match_files(name: str, folder: Path, images: Sequence[Path], count: int, images_dir: Path) -> dict[Path, Path]:
    """Find the finished image of each true image.

    It has the same relative path, the name that infer_lab.py gives it, or the same stem.

    Args:
        name: of the row.
        folder: of the finished images.
        images: all that `images_dir` has, on which the names in the folder depend.
        count: how many of them, from the first on, are looked for.
        images_dir: folder of the true images, or a list of them.

    Raises:
        UserError: the folder has no image, or none for any of the first `count` true images.
    """
    found = list_images(folder, recursive=True, mend=f"name the folder of --results {name}")
    index: dict[str, Path] = {}
    for path, key in zip(found, image_keys(folder, found), strict=True):
        index.setdefault(key, path)
        index.setdefault(key.removesuffix(path.suffix), path)
    root = os.path.abspath(common_root(images_dir, images))
    keys = [Path(os.path.abspath(image)).relative_to(root).as_posix() for image in images]
    outputs = [output.with_suffix("").as_posix() for output in name_outputs([Path(key) for key in keys])]
    stems = [key.removesuffix(image.suffix) for key, image in zip(keys, images, strict=True)]
    uses = Counter(stems)  # a.jpg and a.png cannot both be matched to one a.webp
    files = {}
    for image, key, output, stem in islice(zip(images, keys, outputs, stems, strict=True), count):
        match = index.get(key) or index.get(output) or (index.get(stem) if uses[stem] == 1 else None)
        if match:
            files[image] = match
    if not files:
        raise UserError(f"--results {name} {folder}: no image there has the name of one of {images_dir}")
    return files


def load_square(path: Path, cfg: MetricsConfig) -> np.ndarray | str:
    """Read an image as (S, S, 3) uint8, by the protocol; or return why it cannot be read."""
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
    """Read true images, given with their index, and the finished ones; threads read ahead."""

    def load(item: tuple[int, Path]) -> Sample:
        sample = Sample(*item)
        files = {row.name: row.files.get(sample.path) for row in rows if row.files}
        for name, file in {GROUND_TRUTH: sample.path, **files}.items():
            square = load_square(file, cfg) if file else "no file of this name"
            if isinstance(square, str):
                sample.problems[name] = square
            else:
                sample.images[name] = square
        return sample

    samples = map_in_threads(load, images, cfg.num_workers)
    while batch := list(islice(samples, cfg.batch_size)):
        yield batch


def merge_processes(
    images: Sequence[Path], rows: Sequence[Row], fid: FID | None, skipped: dict[str, str]
) -> dict[str, str]:
    """Merge the scores of all processes into `rows`, and return what they skipped, in the order of the images."""

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
        fid.merge([row.name for row in rows])
    return in_order(gather(skipped))


def extremes(row: Row) -> dict[str, int]:
    """Find the best, median and worst image of a row by PSNR: word -> index; fewer if they are the same image.

    The median is the better of the two in the middle. Of images with equal PSNR, the first counts as the best.
    """
    psnr = row.scores["PSNR"]
    order = [i for i in psnr.argsort(descending=True, stable=True).tolist() if not psnr[i].isnan()]
    if not order:
        return {}
    words = {order[(len(order) - 1) // 2]: "median", order[-1]: "worst", order[0]: "best"}
    return dict(sorted((word, index) for index, word in words.items()))  # best, median, worst


def make_table(rows: Sequence[Row], fid: FID | None) -> Table:
    """Average the scores of each row, without the columns that are undefined in every row."""
    table: Table = {}
    for row in rows:
        scores = {title: values[~values.isnan()] for title, values in row.scores.items()}
        line = {title: mean_score(values) for title, values in scores.items()}
        if fid:
            line[fid.column] = fid.score(row.name)
        table[row.name] = {**line, "Images": len(scores["SSIM"])}
    undefined = {title for title in rows[0].scores if all(math.isnan(line[title]) for line in table.values())}
    return {name: {t: value for t, value in line.items() if t not in undefined} for name, line in table.items()}


def format_score(title: str, value: float) -> str:
    """Round a score to the decimals of its column; whole numbers have none."""
    return str(value) if isinstance(value, int) else f"{value:.{DECIMALS.get(title, 2)}f}"
