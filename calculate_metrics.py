"""Score colorization checkpoints, or folders of finished images, against the true colors.

    python calculate_metrics.py --images-dir data/coco/test2017
    torchrun --nproc_per_node N calculate_metrics.py           # each process scores its share of the images

Reads the images and the checkpoints of --checkpoint (without it the newest of each stage and, without --results, the
default one) or the folders of --results. Writes report.html, report.md, comparison.png, evaluation_metrics.json,
evaluation_metrics.csv and per_image.csv to --output-dir.
"""

from __future__ import annotations

import functools
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from config import MetricsConfig
from utils.coloring.exported import open_generator
from utils.files import FIRST, list_images
from utils.fixed_samples import choose_fixed_images
from utils.lab import denormalize_ab, fit_gamut, lab_to_rgb, lightness, normalize_l, to_uint8
from utils.report import metrics
from utils.report.fid import FID, load_fid
from utils.report.lpips import LPIPS, load_lpips
from utils.report.rows import DECIMALS, Row, Sample, extremes, match_files, merge_processes, read_batches
from utils.report.table import write_report
from utils.run import UserError, hold, is_main, rank, run_script, say, set_up_device, world_size
from utils.training.checkpoints import find_checkpoints, working_size
from utils.visualization import GRAYSCALE, GROUND_TRUTH

FIGURE_IMAGES = 8


def predict_at(generator: Callable[[Tensor], Tensor], size: int, l: Tensor) -> Tensor:
    """Predict ab (B, 2, S, S) from L (B, 1, S, S), both in [-1, 1]; the generator sees size x size pixels."""
    if l.shape[-1] == size:
        return generator(l)
    ab = generator(F.interpolate(l, (size, size), mode="bilinear", antialias=True))
    return F.interpolate(ab, l.shape[-2:], mode="bilinear", antialias=True)


def colorize(generator: nn.Module, size: int, l: Tensor) -> Tensor:
    """Predict images (B, 3, S, S), uint8, from L (B, 1, S, S), in [0, 100], with a generator trained at `size`."""
    ab = denormalize_ab(predict_at(generator, size, normalize_l(l)).float())  # (B, 2, S, S)
    return to_uint8(lab_to_rgb(fit_gamut(torch.cat([l, ab], dim=1))))


def grayscale(l: Tensor) -> Tensor:
    """Convert L (B, 1, S, S), in [0, 100], to images without color, (B, 3, S, S), uint8."""
    return to_uint8(lab_to_rgb(torch.cat([l, torch.zeros_like(l), torch.zeros_like(l)], dim=1)))


def open_rows(cfg: MetricsConfig, listed: Sequence[Path], device: torch.device) -> list[Row]:
    """Load the generators and match the folders of finished images; Grayscale and Ground Truth come last.

    `listed` has all images of cfg.images_dir; the first cfg.max_images are scored.

    Raises:
        UserError: there is nothing to score, or a checkpoint, a folder or a name is invalid.
    """
    checkpoints = cfg.checkpoint or find_checkpoints(with_default=not cfg.results)
    if not checkpoints and not cfg.results:
        raise UserError("nothing to score: run python train_lab.py first, or give --checkpoint or --results")
    rows = []
    for name, path in checkpoints.items():
        generator, info = open_generator(path, device)
        source = {"checkpoint": str(path), "working_size": working_size(info)}
        source |= {key: info.get(key) for key in ("stage", "epoch", "step", "vgg", "commit")}
        predict = functools.partial(colorize, generator, working_size(info))
        if info.get("vgg") == "stand-in":
            name += " (stand-in VGG)"
        elif info.get("vgg") == "lite2" and "VGG" in name:
            name += " (Lite2 for VGG)"
        rows.append(Row(name, source, predict))
    for name, folder in cfg.results.items():
        files = match_files(name, folder, listed, cfg.max_images, cfg.images_dir)
        rows.append(Row(name, {"results": str(folder)}, files=files))
    rows.append(Row(GRAYSCALE, {"reference": "ab = 0"}, grayscale))
    rows.append(Row(GROUND_TRUTH, {"reference": "the truth against itself"}))
    for name, count in Counter(row.name for row in rows).items():
        if count > 1:
            raise UserError(f"{name}: {count} rows of this name; give --checkpoint or --results another one")
    for row in rows:
        row.scores = {title: torch.full((min(len(listed), cfg.max_images),), math.nan) for title in DECIMALS}
    return rows


def stack(images: Sequence[np.ndarray], device: torch.device) -> Tensor:
    """Stack (S, S, 3) uint8 images to (B, 3, S, S) on the device."""
    return torch.from_numpy(np.stack(images)).to(device).permute(0, 3, 1, 2).contiguous()


def find_images(row: Row, batch: Sequence[Sample], l: Tensor) -> tuple[Tensor, list[int]]:
    """Predict or look up a row's images of a batch, and note the missing ones in the row.

    Args:
        row: where they come from.
        batch: B samples whose truth can be read.
        l: (B, 1, S, S), their true L, in [0, 100].

    Returns:
        Images (B, 3, S, S), uint8, and the indices of those that count; the truth takes the place of the missing.
    """
    if row.predict:
        return row.predict(l), list(range(len(batch)))
    row.missing |= {str(sample.path): sample.problems[row.name] for sample in batch if row.name in sample.problems}
    images = [sample.images.get(row.name, sample.truth) for sample in batch]
    return stack(images, l.device), [i for i, sample in enumerate(batch) if row.name in sample.images]


@torch.inference_mode()
def score_batch(
    batch: Sequence[Sample],
    rows: Sequence[Row],
    fid: FID | None,
    lpips: LPIPS | None,
    device: torch.device,
) -> None:
    """Score every row on a batch of true images that can be read."""
    true_levels = stack([sample.truth for sample in batch], device)  # (B, 3, S, S), uint8
    truth = true_levels.float() / 255
    l = torch.stack([lightness(sample.truth) for sample in batch]).to(device)  # (B, 1, S, S), in [0, 100]
    similarity = metrics.StructuralSimilarity(truth)
    true_color = metrics.colorfulness(truth)  # (B,)
    if fid:
        fid.add(GROUND_TRUTH, true_levels)
    for row in rows:
        distance = torch.zeros_like(true_color)
        if row.name == GROUND_TRUTH:  # equal to itself; the metrics are known
            here, color = list(range(len(batch))), true_color
            ssim = torch.ones_like(color)
            ms_ssim = ssim if l.shape[-1] >= metrics.MS_SSIM_MIN_SIZE else math.nan * ssim
            psnr = math.inf * ssim
        else:
            levels, here = find_images(row, batch, l)
            images = levels.float() / 255
            psnr, color = metrics.psnr(images, truth), metrics.colorfulness(images)
            ssim, ms_ssim = similarity.score(images)
            if lpips:
                distance = lpips.score(images, truth)
            if fid and here:
                fid.add(row.name, levels[here])
        psnr = psnr.where(true_color > 0, math.nan)  # a gray truth says nothing about color
        scores = {"PSNR": psnr, "SSIM": ssim, "MS-SSIM": ms_ssim, "Colorfulness": color}
        scores["Delta colorfulness"] = color - true_color
        if lpips:
            scores[lpips.column] = distance
        for title, values in zip(scores, torch.stack(list(scores.values())).cpu(), strict=True):  # (B,) each
            row.scores[title][[batch[i].index for i in here]] = values[here]


@torch.inference_mode()
def draw(
    images: Sequence[Path], chosen: set[Path], rows: Sequence[Row], cfg: MetricsConfig, device: torch.device
) -> None:
    """Fill `shown` of every row with the images for the figures, for the chosen true images that can be read."""
    items = [(index, path) for index, path in enumerate(images) if path in chosen]
    for batch in read_batches(items, rows, cfg):
        batch = [sample for sample in batch if GROUND_TRUTH in sample.images]
        if not batch:
            continue
        l = torch.stack([lightness(sample.truth) for sample in batch]).to(device)  # (B, 1, S, S), in [0, 100]
        for row in rows:
            levels, here = find_images(row, batch, l)
            row.shown |= {batch[i].path: levels[i].permute(1, 2, 0).cpu().numpy() for i in here}


def evaluate(cfg: MetricsConfig) -> None:
    """Score every row in one pass over the images, and write the report.

    Raises:
        UserError: a setting is out of range, there is nothing to score, or no image can be read.
    """
    if min(cfg.max_images, cfg.batch_size) < 1 or cfg.img_size < 16:
        raise UserError("--max-images and --batch-size must be at least 1, --img-size at least 16")
    device = set_up_device(cfg.device)
    listed = list({os.path.abspath(path): path for path in list_images(cfg.images_dir, mend=FIRST)}.values())
    images = listed[: cfg.max_images]
    rows = open_rows(cfg, listed, device)
    hold(cfg.output_dir)
    fid = load_fid(cfg.inception_weights, device)
    lpips = load_lpips(cfg.lpips_weights, cfg.img_size, device)
    if cfg.img_size < metrics.MS_SSIM_MIN_SIZE:
        say(f"no MS-SSIM: it needs --img-size {metrics.MS_SSIM_MIN_SIZE} or more")
    skipped: dict[str, str] = {}
    share = list(enumerate(images))[rank() :: world_size()]
    with tqdm(total=len(images), desc="scoring", unit="image", disable=not is_main()) as progress:
        for batch in read_batches(share, rows, cfg):
            skipped |= {str(s.path): s.problems[GROUND_TRUTH] for s in batch if GROUND_TRUTH in s.problems}
            if readable := [sample for sample in batch if GROUND_TRUTH in sample.images]:
                score_batch(readable, rows, fid, lpips, device)
            # the other processes are about as far
            progress.update(min(len(batch) * world_size(), len(images) - progress.n))
    skipped = merge_processes(images, rows, fid, skipped)
    if not is_main():
        return
    if len(skipped) == len(images):
        raise UserError(f"{cfg.images_dir}: none of its {len(images)} images can be read ({skipped[str(images[0])]})")
    fixed = choose_fixed_images(images, FIGURE_IMAGES)
    draw(images, {*fixed, *(images[i] for row in rows[:-2] for i in extremes(row).values())}, rows, cfg, device)
    write_report(cfg, images, rows, fid, fixed, skipped)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    return run_script(MetricsConfig, evaluate, argv)


if __name__ == "__main__":
    sys.exit(main())
