"""Score colorization checkpoints, or folders of finished images, against the true colors.

    python calculate_metrics.py --images-dir data/coco/test2017

Reads the images and the newest checkpoint of each stage that has one (or those that --checkpoint and --results
name). Writes evaluation_metrics.json, evaluation_metrics.csv, report.md and comparison.png to --output-dir.
"""

from __future__ import annotations

import csv
import functools
import io
import math
import platform
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from config import MetricsConfig
from utils import metrics
from utils.checkpoint import find_stage_checkpoints, load_generator, plain_config, training_size
from utils.files import write_json, write_text
from utils.fixed_samples import choose_fixed_images
from utils.images import ImageError, center_crop, list_images, map_in_threads, name_outputs, read_rgb, resize
from utils.lab import denormalize_ab, fit_gamut, lab_to_rgb, normalize_l, rgb_to_lab, to_uint8
from utils.run import UserError, git_commit, run_script, say, set_up_device
from utils.samples import image_keys
from utils.visualization import GRAYSCALE, GROUND_TRUTH, generated_title, save_comparison_figure

FIGURE_IMAGES = 8
NAMED_PROBLEMS = 20  # on the screen and in report.md; the JSON file names them all
DECIMALS = {"PSNR": 2, "SSIM": 4, "MS-SSIM": 4, "Colorfulness": 2, "Delta colorfulness": 2}
PROTOCOL = """
{count} images, {gray} of them gray: the first {max_images} of {images_dir} in sorted order, less those skipped.
Both sides: {shape} {img_size} x {img_size}, by area averaging (antialiased) to shrink and bicubic to enlarge.
A generator sees the truth's own L, resized to the size it was trained at, and its ab, resized back, is joined with \
that very L. Colors outside sRGB are moved toward gray at constant L and hue. Every image is rounded to 8 bits \
before it is compared.
PSNR (the three channels together), SSIM and MS-SSIM (Gaussian window of 11 x 11, sigma 1.5): torchmetrics, for \
each image, then averaged. PSNR is of the images whose truth has color; those equal to the truth, whose PSNR is \
infinite, count only where there are no others.
Colorfulness: Hasler and Suesstrunk 2003, signed opponent channels, averaged over the images. Delta, signed: a \
row's mean less the mean of the truth over the same images.
A row some of whose images are missing is scored on the others; the last column says on how many.
"""
SHAPES = {"squash": "the whole image, resized to", "center-crop": "the central square of the image, resized to"}
FRECHET = {
    metrics.FID_COLUMN: "torchmetrics on torch-fidelity's Inception, 2048 features. It falls as images are added: "
    "compare only rows of equally many.",
    metrics.STAND_IN_COLUMN: "Frechet distance between the features of a fixed random network. It is no FID and says "
    "nothing about quality.",
}


@dataclass
class Row:
    """A line of the table, and what is needed to fill it.

    Attributes:
        name: as the table shows it.
        source: where its colors come from, for the report.
        predict_ab: maps L (B, 1, H, W) to ab (B, 2, H, W), both in [-1, 1]; None for finished images and the truth.
        files: of finished images, the file of each true image that has one.
        scores: title of a column -> a tensor of values a batch.
        missing: true images without a finished one that can be read, with the reason.
        shown: images for the figure, (S, S, 3) uint8.
    """

    name: str
    source: dict[str, object]
    predict_ab: Callable[[Tensor], Tensor] | None = None
    files: dict[Path, Path] | None = None
    scores: dict[str, list[Tensor]] = field(default_factory=lambda: {title: [] for title in DECIMALS})
    missing: dict[str, str] = field(default_factory=dict)
    shown: dict[Path, np.ndarray] = field(default_factory=dict)


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
    found = list_images(folder, recursive=True)
    index: dict[str, Path] = {}
    for path, key in zip(found, image_keys(folder, found), strict=True):
        index.setdefault(key, path)
        index.setdefault(key.removesuffix(path.suffix), path)
    keys = image_keys(images_dir, images)
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


def make_table(rows: Sequence[Row], fid: metrics.FID | None) -> list[dict[str, object]]:
    """Average each row's scores; a column that no row has is left out."""
    table = []
    for row in rows:
        scores = {title: torch.cat([torch.empty(0), *values]) for title, values in row.scores.items()}
        line = {"Model": row.name, **{title: metrics.mean_score(values) for title, values in scores.items()}}
        if fid:
            line[fid.column] = fid.score(None if row.name == GROUND_TRUTH else row.name)
        table.append({**line, "Images": len(scores["SSIM"])})
    undefined = {title for title in DECIMALS if all(math.isnan(line[title]) for line in table)}
    return [{title: value for title, value in line.items() if title not in undefined} for line in table]


def format_table(table: Sequence[dict[str, object]]) -> str:
    """Align rows as a Markdown table, which serves the screen as well."""
    cells = [list(table[0])]
    for row in table:
        cells.append([f"{v:.{DECIMALS.get(t, 2)}f}" if isinstance(v, float) else str(v) for t, v in row.items()])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    aligned = ([c[0].ljust(widths[0]), *(v.rjust(w) for v, w in zip(c[1:], widths[1:], strict=True))] for c in cells)
    return "\n".join(f"| {' | '.join(line)} |" for line in aligned)


def to_json(line: dict[str, object]) -> dict[str, object]:
    """Turn a line of the table into JSON: keys such as "delta_colorfulness"; "inf" and null for no number."""
    keys = [re.sub(r"\W+", "_", title).strip("_").lower() for title in line]
    values = ["inf" if value == math.inf else None if value != value else value for value in line.values()]
    return dict(zip(keys, values, strict=True))


def write_report(
    cfg: MetricsConfig, rows: Sequence[Row], fid: metrics.FID | None, count: int, skipped: dict[str, str]
) -> None:
    """Write the four files, and print the table and what was left out."""
    table, reference = make_table(rows, fid), rows[-1]
    settings = plain_config(cfg)
    settings |= {kind: {k: str(v) for k, v in settings[kind].items()} for kind in ("checkpoint", "results")}
    gray = count - sum(map(len, reference.scores["PSNR"]))
    protocol = PROTOCOL.strip().format(**settings, shape=SHAPES[cfg.protocol], count=count, gray=gray).splitlines()
    protocol += [f"{fid.column}: {FRECHET[fid.column]}"] if fid else []
    versions = {
        "commit": git_commit(),
        "device": torch.cuda.get_device_name(cfg.device) if cfg.device.startswith("cuda") else cfg.device,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "torchmetrics", "torch-fidelity", "numpy", "scikit-image")},
        "opencv": cv2.__version__,
    }
    problems = [f"{path}: {reason}" for path, reason in skipped.items()]
    problems += [f"{row.name}, {path}: {reason}" for row in rows for path, reason in row.missing.items()]
    if len(problems) > NAMED_PROBLEMS:
        problems[NAMED_PROBLEMS:] = [f"... and {len(problems) - NAMED_PROBLEMS} more, in evaluation_metrics.json"]

    content: dict[str, object] = {"settings": settings, "protocol": protocol, "versions": versions}
    content["rows"] = [
        {**to_json(line), "source": row.source, "missing": row.missing} for line, row in zip(table, rows, strict=True)
    ]
    write_json(cfg.output_dir / "evaluation_metrics.json", {**content, "skipped": skipped})

    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(table[0]))
    writer.writeheader()
    writer.writerows(table)
    write_text(cfg.output_dir / "evaluation_metrics.csv", text.getvalue())

    columns = {}
    for row in (*rows[-2:], *rows[:-2]):  # Grayscale | Ground Truth | Generated ...
        title = row.name if row.name in (GRAYSCALE, GROUND_TRUTH) else generated_title(row.name)
        columns[title] = [row.shown.get(path) for path in sorted(reference.shown)]
    if reference.shown:  # unless none of the chosen images can be read
        save_comparison_figure(cfg.output_dir / "comparison.png", columns)

    sections = {
        "Protocol": protocol,
        "Sources": [f"{row.name}: {', '.join(f'{k} {v}' for k, v in row.source.items() if v)}" for row in rows],
        "Versions": [f"{name} {value}" for name, value in versions.items()],
        "Skipped or missing": problems,
    }
    parts = ["# Colorization metrics", format_table(table), "![Comparison](comparison.png)"]
    parts += [
        f"## {title}\n\n" + "\n".join(f"- {line}" for line in lines) for title, lines in sections.items() if lines
    ]
    write_text(cfg.output_dir / "report.md", "\n\n".join(parts) + "\n")

    say(format_table(table))
    if problems:
        say(f"{len(skipped)} images skipped, {sum(len(row.missing) for row in rows)} missing:")
        say("\n".join(problems))
    say(f"report: {cfg.output_dir / 'report.md'}, figure: {cfg.output_dir / 'comparison.png'}")


def evaluate(cfg: MetricsConfig) -> None:
    """Score every row in one pass over the images, and write the report."""
    if min(cfg.max_images, cfg.batch_size) < 1 or cfg.img_size < 16:
        raise UserError("--max-images and --batch-size must be at least 1, --img-size at least 16")
    device = set_up_device(cfg.device)
    images = list_images(cfg.images_dir)[: cfg.max_images]
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
