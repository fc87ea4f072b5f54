"""Score colorization checkpoints, or folders of finished images, against the true colors.

    python calculate_metrics.py --images-dir data/coco/test2017

Reads the images and the newest checkpoint of each stage that has one (or those that --checkpoint and --results
name). Writes evaluation_metrics.json, evaluation_metrics.csv, report.md and comparison.png to --output-dir.
"""

from __future__ import annotations

import functools
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from config import MetricsConfig
from utils import metrics
from utils.checkpoint import find_stage_checkpoints, load_generator, training_size
from utils.fixed_samples import choose_fixed_images
from utils.images import (
    FIRST,
    ImageError,
    center_crop,
    common_root,
    list_images,
    map_in_threads,
    name_outputs,
    read_rgb,
    resize,
)
from utils.lab import denormalize_ab, fit_gamut, lab_to_rgb, normalize_l, rgb_to_lab, to_uint8
from utils.report import DECIMALS, Row, write_report
from utils.run import UserError, run_script, say, set_up_device
from utils.samples import image_keys
from utils.visualization import GRAYSCALE, GROUND_TRUTH

FIGURE_IMAGES = 8


@dataclass(frozen=True)
class Sample:
    """A true image as (S, S, 3) uint8, and the finished ones by row; the reason instead where one cannot be read."""

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


def predict_at(generator: nn.Module, size: int, l: Tensor) -> Tensor:
    """Predict ab (B, 2, S, S) from L (B, 1, S, S), both in [-1, 1], by a generator that sees size x size pixels."""
    if l.shape[-1] == size:
        return generator(l)
    ab = generator(F.interpolate(l, (size, size), mode="bilinear", antialias=True))
    return F.interpolate(ab, l.shape[-2:], mode="bilinear", antialias=True)


def open_rows(cfg: MetricsConfig, images: Sequence[Path], device: torch.device) -> list[Row]:
    """Load the generators and match the folders of finished images; Grayscale and Ground Truth come last.

    Raises:
        UserError: there is nothing to score, or a checkpoint, a folder or a name cannot be used.
    """
    checkpoints = cfg.checkpoint or find_stage_checkpoints()
    if not checkpoints and not cfg.results:
        raise UserError(
            "nothing to score: run python train_lab.py first, or give --checkpoint or --results NAME PATH"
        )
    rows = []
    for name, path in checkpoints.items():
        generator, info = load_generator(path, device)
        source = {"checkpoint": str(path), "trained_at": training_size(info)}
        source |= {key: info.get(key) for key in ("epoch", "step", "vgg", "commit")}
        predict_ab = functools.partial(predict_at, generator, training_size(info))
        rows.append(Row(f"{name} (stand-in VGG)" if info.get("vgg") == "stand-in" else name, source, predict_ab))
    for name, folder in cfg.results.items():
        rows.append(Row(name, {"results": str(folder)}, files=match_files(name, folder, images, cfg.images_dir)))
    rows.append(Row(GRAYSCALE, {"reference": "ab = 0"}, lambda l: torch.zeros_like(l).repeat(1, 2, 1, 1)))
    rows.append(Row(GROUND_TRUTH, {"reference": "the truth against itself"}))
    for name, count in Counter(row.name for row in rows).items():
        if count > 1:
            raise UserError(f"{name}: {count} rows of this name; give --checkpoint or --results another one")
    return rows


def load_square(path: Path, cfg: MetricsConfig) -> np.ndarray | str:
    """Read an image as (S, S, 3) uint8 by the protocol, or say why it cannot be read."""
    try:
        rgb = read_rgb(path)
    except ImageError as error:
        return str(error)
    if cfg.protocol == "center-crop":
        rgb = center_crop(rgb, min(rgb.shape[:2]), min(rgb.shape[:2]))
    return resize(rgb, cfg.img_size, cfg.img_size)


def read_batches(images: Sequence[Path], rows: Sequence[Row], cfg: MetricsConfig) -> Iterator[list[Sample]]:
    """Read true and finished images, ahead in threads."""

    def load(path: Path) -> Sample:
        finished = {row.name: load_square(row.files[path], cfg) for row in rows if row.files and path in row.files}
        return Sample(path, load_square(path, cfg), finished)

    samples = map_in_threads(load, images, cfg.num_workers)
    while batch := list(islice(samples, cfg.batch_size)):
        yield batch


def stack(images: Sequence[np.ndarray], device: torch.device) -> Tensor:
    """Stack (S, S, 3) uint8 images to (B, 3, S, S) on the device."""
    return torch.from_numpy(np.stack(images)).to(device).permute(0, 3, 1, 2)


@torch.inference_mode()
def score_batch(
    batch: Sequence[Sample], rows: Sequence[Row], fid: metrics.FID | None, shown: Sequence[Path], device: torch.device
) -> None:
    """Score a batch of readable true images in every row."""
    true_levels = stack([sample.truth for sample in batch], device)  # (B, 3, S, S), uint8
    truth = true_levels.float() / 255
    l = rgb_to_lab(truth)[:, :1]  # (B, 1, S, S), in [0, 100]
    has_color = (true_levels != true_levels[:, :1]).flatten(1).any(dim=1)  # (B,)
    truth_colorfulness = metrics.colorfulness(truth)
    if fid:
        fid.add_truth(true_levels)
    for row in rows:
        here = list(range(len(batch)))
        if row.predict_ab:
            ab = denormalize_ab(row.predict_ab(normalize_l(l)).float())  # (B, 2, S, S)
            levels = to_uint8(lab_to_rgb(fit_gamut(torch.cat([l, ab], dim=1))))  # (B, 3, S, S)
        elif row.files is not None:
            finished = [sample.finished.get(row.name, "no file of this name") for sample in batch]
            row.missing |= {str(batch[i].path): finished[i] for i in here if isinstance(finished[i], str)}
            here = [i for i in here if not isinstance(finished[i], str)]
            if not here:
                continue
            levels = stack([finished[i] for i in here], device)  # (b, 3, S, S)
        else:
            levels = true_levels
        output, target = levels.float() / 255, truth[here]
        color = metrics.colorfulness(output)
        values = (
            metrics.psnr(output, target)[has_color[here]],
            metrics.ssim(output, target),
            metrics.ms_ssim(output, target),
            color,
        )
        for title, value in zip(DECIMALS, (*values, color - truth_colorfulness[here]), strict=True):
            row.scores[title].append(value.cpu())
        if fid and row.name != GROUND_TRUTH:
            fid.add(row.name, levels)
        for image, i in zip(levels, here, strict=True):
            if batch[i].path in shown:
                row.shown[batch[i].path] = image.permute(1, 2, 0).cpu().numpy()


def evaluate(cfg: MetricsConfig) -> None:
    """Score every row in one pass over the images, and write the report."""
    if min(cfg.max_images, cfg.batch_size) < 1 or cfg.img_size < 16:
        raise UserError("--max-images and --batch-size must be at least 1, --img-size at least 16")
    device = set_up_device(cfg.device)
    images = list_images(cfg.images_dir, mend=FIRST)[: cfg.max_images]
    rows = open_rows(cfg, images, device)
    fid = metrics.load_fid(cfg.inception_weights, device)
    if cfg.img_size < metrics.MS_SSIM_MIN_SIZE:
        say(f"no MS-SSIM: it needs --img-size {metrics.MS_SSIM_MIN_SIZE} or more")
    shown = choose_fixed_images(images, FIGURE_IMAGES)
    skipped: dict[str, str] = {}
    with tqdm(total=len(images), desc="scoring", unit="image") as progress:
        for batch in read_batches(images, rows, cfg):
            skipped |= {str(sample.path): sample.truth for sample in batch if isinstance(sample.truth, str)}
            if readable := [sample for sample in batch if not isinstance(sample.truth, str)]:
                score_batch(readable, rows, fid, shown, device)
            progress.update(len(batch))
    if len(skipped) == len(images):
        raise UserError(f"{cfg.images_dir}: none of its {len(images)} images can be read ({skipped[str(images[0])]})")
    write_report(cfg, rows, fid, len(images) - len(skipped), skipped)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and give the exit code."""
    return run_script(MetricsConfig, evaluate, argv)


if __name__ == "__main__":
    sys.exit(main())
