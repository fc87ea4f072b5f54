"""The report of an evaluation: its table, its protocol and its figure, in four files.

evaluation_metrics.json holds everything, evaluation_metrics.csv the table; report.md is for reading and shows
comparison.png.
"""

from __future__ import annotations

import csv
import io
import math
import platform
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from config import MetricsConfig
from utils import metrics
from utils.checkpoint import plain_config
from utils.files import write_json, write_text
from utils.run import git_commit, say
from utils.visualization import GRAYSCALE, GROUND_TRUTH, generated_title, save_comparison_figure

NAMED_PROBLEMS = 20  # on the screen and in report.md; the JSON file names them all
DECIMALS = {"PSNR": 2, "SSIM": 4, "MS-SSIM": 4, "Colorfulness": 2, "Delta colorfulness": 2}
PROTOCOL = """
{count} images, {gray} of them gray: the first {max_images} of {images_dir} in sorted order, less those skipped.
Both sides: {shape} {img_size} x {img_size}, by a triangle filter (antialiased) to shrink and bicubic to enlarge.
A generator sees the truth's own L, resized to the size it was trained at, and its ab, resized back, is joined with \
that very L. Colors outside sRGB are moved toward gray at constant L and hue. Every image is rounded to 8 bits \
before it is compared.
PSNR (the three channels together), SSIM and MS-SSIM (Gaussian window of 11 x 11, sigma 1.5): as torchmetrics \
computes them, for each image, then averaged. PSNR is of the images whose truth has color; those equal to the truth, \
whose PSNR is infinite, count only where there are no others.
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
        predict: maps L (B, 1, S, S), in [0, 100], to images (B, 3, S, S), uint8; None for finished images and the
            truth.
        files: of finished images, the file of each true image that has one.
        scores: title of a column -> (images,) values; NaN where it has none.
        missing: true images without a finished one that can be read, with the reason.
        shown: images for the figure, (S, S, 3) uint8.
    """

    name: str
    source: dict[str, object]
    predict: Callable[[Tensor], Tensor] | None = None
    files: dict[Path, Path] | None = None
    scores: dict[str, Tensor] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    shown: dict[Path, np.ndarray] = field(default_factory=dict)


def make_table(rows: Sequence[Row], fid: metrics.FID | None) -> list[dict[str, object]]:
    """Average each row's scores; a column that no row has is left out."""
    table = []
    for row in rows:
        scores = {title: values[~values.isnan()] for title, values in row.scores.items()}
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
    """Write the four files to `cfg.output_dir`, and print the table and what was left out.

    Args:
        cfg: the settings, which the report repeats.
        rows: scored; the last two are Grayscale and Ground Truth. Where the truth has no image for the figure, no
            comparison.png is written.
        fid: holds the features of every row; None leaves the column out.
        count: true images that were scored.
        skipped: true images that cannot be read, with the reason.
    """
    table, reference = make_table(rows, fid), rows[-1]
    settings = plain_config(cfg)
    settings |= {kind: {k: str(v) for k, v in settings[kind].items()} for kind in ("checkpoint", "results")}
    gray = count - int((~reference.scores["PSNR"].isnan()).sum())
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

    if reference.shown:  # unless none of the chosen images can be read
        columns = {}
        for row in (*rows[-2:], *rows[:-2]):  # Grayscale | Ground Truth | Generated ...
            title = row.name if row.name in (GRAYSCALE, GROUND_TRUTH) else generated_title(row.name)
            columns[title] = [row.shown.get(path) for path in sorted(reference.shown)]
        save_comparison_figure(cfg.output_dir / "comparison.png", columns)

    sections = {
        "Protocol": protocol,
        "Sources": [f"{row.name}: {', '.join(f'{k} {v}' for k, v in row.source.items() if v)}" for row in rows],
        "Versions": [f"{name} {value}" for name, value in versions.items()],
        "Skipped or missing": problems,
    }
    parts = ["# Colorization metrics", format_table(table)]
    parts += ["![Comparison](comparison.png)"] if reference.shown else []
    parts += [
        f"## {title}\n\n" + "\n".join(f"- {line}" for line in lines) for title, lines in sections.items() if lines
    ]
    write_text(cfg.output_dir / "report.md", "\n\n".join(parts) + "\n")

    say(format_table(table))
    if problems:
        say(f"{len(skipped)} images skipped, {sum(len(row.missing) for row in rows)} missing:")
        say("\n".join(problems))
    figure = f": {cfg.output_dir / 'comparison.png'}" if reference.shown else ": none, no image for it can be read"
    say(f"report: {cfg.output_dir / 'report.md'}, figure{figure}")
