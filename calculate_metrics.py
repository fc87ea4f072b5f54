"""Score colorization checkpoints, or folders of finished images, against the true colors.

    python calculate_metrics.py --images-dir data/coco/test2017
    torchrun --nproc_per_node N calculate_metrics.py           # each process scores its share of the images

Reads the images and the newest checkpoint of each stage that has one (or those that --checkpoint and --results
name). Writes evaluation_metrics.json, evaluation_metrics.csv, report.md and comparison.png to --output-dir.
"""

from __future__ import annotations

import functools
import math
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
from utils.checkpoint import find_checkpoints, load_generator, training_size
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
from utils.lab import denormalize_ab, fit_gamut, lab_to_rgb, lightness, normalize_l, to_uint8
from utils.report import DECIMALS, Row, write_report
from utils.run import UserError, gather, hold, is_main, rank, run_script, say, set_up_device, world_size
from utils.samples import image_keys
from utils.visualization import GRAYSCALE, GROUND_TRUTH

FIGURE_IMAGES = 8


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


def predict_at(generator: nn.Module, size: int, l: Tensor) -> Tensor:
    """Predict ab (B, 2, S, S) from L (B, 1, S, S), both in [-1, 1], by a generator that sees size x size pixels."""
    if l.shape[-1] == size:
        return generator(l)
    ab = generator(F.interpolate(l, (size, size), mode="bilinear", antialias=True))
    return F.interpolate(ab, l.shape[-2:], mode="bilinear", antialias=True)


def colorize(generator: nn.Module, size: int, l: Tensor) -> Tensor:
    """Predict images (B, 3, S, S), uint8, from L (B, 1, S, S), in [0, 100]."""
    ab = denormalize_ab(predict_at(generator, size, normalize_l(l)).float())  # (B, 2, S, S)
    return to_uint8(lab_to_rgb(fit_gamut(torch.cat([l, ab], dim=1))))


def grayscale(l: Tensor) -> Tensor:
    """Give images without color, (B, 3, S, S), uint8, of L (B, 1, S, S), in [0, 100]."""
    return to_uint8(lab_to_rgb(torch.cat([l, torch.zeros_like(l), torch.zeros_like(l)], dim=1)))


def open_rows(cfg: MetricsConfig, images: Sequence[Path], device: torch.device) -> list[Row]:
    """Load the generators and match the folders of finished images; Grayscale and Ground Truth come last.

    Raises:
        UserError: there is nothing to score, or a checkpoint, a folder or a name cannot be used.
    """
    checkpoints = cfg.checkpoint or find_checkpoints(with_default=not cfg.results)
    if not checkpoints and not cfg.results:
        raise UserError(
            "nothing to score: run python train_lab.py first, or give --checkpoint or --results NAME PATH"
        )
    rows = []
    for name, path in checkpoints.items():
        generator, info = load_generator(path, device)
        source = {"checkpoint": str(path), "trained_at": training_size(info)}
        source |= {key: info.get(key) for key in ("epoch", "step", "vgg", "commit")}
        predict = functools.partial(colorize, generator, training_size(info))
        rows.append(Row(f"{name} (stand-in VGG)" if info.get("vgg") == "stand-in" else name, source, predict))
    for name, folder in cfg.results.items():
        rows.append(Row(name, {"results": str(folder)}, files=match_files(name, folder, images, cfg.images_dir)))
    rows.append(Row(GRAYSCALE, {"reference": "ab = 0"}, grayscale))
    rows.append(Row(GROUND_TRUTH, {"reference": "the truth against itself"}))
    for name, count in Counter(row.name for row in rows).items():
        if count > 1:
            raise UserError(f"{name}: {count} rows of this name; give --checkpoint or --results another one")
    for row in rows:
        row.scores = {title: torch.full((len(images),), math.nan) for title in DECIMALS}
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
    """Read this process' share of the true images, and the finished ones, ahead in threads."""

    def load(item: tuple[int, Path]) -> Sample:
        index, path = item
        finished = {row.name: load_square(row.files[path], cfg) for row in rows if row.files and path in row.files}
        return Sample(index, path, load_square(path, cfg), finished)

    samples = map_in_threads(load, list(enumerate(images))[rank() :: world_size()], cfg.num_workers)
    while batch := list(islice(samples, cfg.batch_size)):
        yield batch


def stack(images: Sequence[np.ndarray], device: torch.device) -> Tensor:
    """Stack (S, S, 3) uint8 images to (B, 3, S, S) on the device."""
    return torch.from_numpy(np.stack(images)).to(device).permute(0, 3, 1, 2).contiguous()


def find_images(row: Row, batch: Sequence[Sample], l: Tensor) -> tuple[Tensor, list[int]]:
    """Predict or look up a row's images of a batch, and note what is missing.

    Args:
        row: any but the truth itself.
        batch: B samples.
        l: (B, 1, S, S), their true L, in [0, 100].

    Returns:
        (B, 3, S, S) uint8, and which of them count: the truth stands in for those that are missing.
    """
    everything = list(range(len(batch)))
    if row.predict:
        return row.predict(l), everything
    found = [sample.finished.get(row.name, "no file of this name") for sample in batch]
    row.missing |= {str(batch[i].path): found[i] for i in everything if isinstance(found[i], str)}
    here = [i for i in everything if not isinstance(found[i], str)]
    return stack([found[i] if i in here else batch[i].truth for i in everything], l.device), here


@torch.inference_mode()
def score_batch(
    batch: Sequence[Sample], rows: Sequence[Row], fid: metrics.FID | None, shown: Sequence[Path], device: torch.device
) -> None:
    """Score a batch of readable true images in every row."""
    true_levels = stack([sample.truth for sample in batch], device)  # (B, 3, S, S), uint8
    truth = true_levels.float() / 255
    l = torch.stack([lightness(sample.truth) for sample in batch]).to(device)  # (B, 1, S, S), in [0, 100]
    similarity = metrics.StructuralSimilarity(truth)
    true_color = metrics.colorfulness(truth)  # (B,)
    if fid:
        fid.add_truth(true_levels)
    for row in rows:
        if row.name == GROUND_TRUTH:  # it equals itself, and need not be measured
            levels, here, color = true_levels, list(range(len(batch))), true_color
            ssim = torch.ones_like(color)
            ms_ssim = ssim if l.shape[-1] >= metrics.MS_SSIM_MIN_SIZE else math.nan * ssim
            psnr = math.inf * ssim
        else:
            levels, here = find_images(row, batch, l)
            images = levels.float() / 255
            psnr, color = metrics.psnr(images, truth), metrics.colorfulness(images)
            ssim, ms_ssim = similarity.score(images)
            if fid and here:
                fid.add(row.name, levels[here])
        psnr = psnr.where(true_color > 0, math.nan)  # a gray truth says nothing of color
        values = torch.stack([psnr, ssim, ms_ssim, color, color - true_color]).cpu()  # (5, B)
        for title, value in zip(DECIMALS, values, strict=True):
            row.scores[title][[batch[i].index for i in here]] = value[here]
        for i in here:
            if batch[i].path in shown:
                row.shown[batch[i].path] = levels[i].permute(1, 2, 0).cpu().numpy()


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
        row.shown = {path: image for shown in gather(row.shown) for path, image in shown.items()}
    if fid:
        fid.merge([row.name for row in rows if row.name != GROUND_TRUTH])
    return in_order(gather(skipped))


def evaluate(cfg: MetricsConfig) -> None:
    """Score every row in one pass over the images, and write the report."""
    if min(cfg.max_images, cfg.batch_size) < 1 or cfg.img_size < 16:
        raise UserError("--max-images and --batch-size must be at least 1, --img-size at least 16")
    device = set_up_device(cfg.device)
    images = list_images(cfg.images_dir, mend=FIRST)[: cfg.max_images]
    rows = open_rows(cfg, images, device)
    hold(cfg.output_dir)
    fid = metrics.load_fid(cfg.inception_weights, device)
    if cfg.img_size < metrics.MS_SSIM_MIN_SIZE:
        say(f"no MS-SSIM: it needs --img-size {metrics.MS_SSIM_MIN_SIZE} or more")
    shown = choose_fixed_images(images, FIGURE_IMAGES)
    skipped: dict[str, str] = {}
    with tqdm(total=len(images), desc="scoring", unit="image", disable=not is_main()) as progress:
        for batch in read_batches(images, rows, cfg):
            skipped |= {str(sample.path): sample.truth for sample in batch if isinstance(sample.truth, str)}
            if readable := [sample for sample in batch if not isinstance(sample.truth, str)]:
                score_batch(readable, rows, fid, shown, device)
            progress.update(min(len(batch) * world_size(), len(images) - progress.n))  # the others go on alike
    skipped = merge_processes(images, rows, fid, skipped)
    if not is_main():
        return
    if len(skipped) == len(images):
        raise UserError(f"{cfg.images_dir}: none of its {len(images)} images can be read ({skipped[str(images[0])]})")
    write_report(cfg, rows, fid, len(images) - len(skipped), skipped)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and give the exit code."""
    return run_script(MetricsConfig, evaluate, argv)


if __name__ == "__main__":
    sys.exit(main())
