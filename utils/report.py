"""The report of an evaluation: its table, its protocol and its figures.

evaluation_metrics.json holds everything, evaluation_metrics.csv the table, per_image.csv what it averages; report.md
and the page report.html are for reading, of which the former shows comparison.png.
"""

from __future__ import annotations

import csv
import io
import math
import platform
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import cv2
import torch

from config import MetricsConfig
from utils import lpips, metrics
from utils.checkpoint import plain_config
from utils.evaluation import DECIMALS, Row, format_score, make_table
from utils.files import write_json, write_text
from utils.html_report import write_page
from utils.run import git_commit, say, world_size
from utils.samples import image_keys
from utils.visualization import GRAYSCALE, GROUND_TRUTH, generated_title, save_comparison_figure

NAMED_PROBLEMS = 20  # on the screen and in report.md; the JSON file names them all
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
LEARNED = {  # columns that rest on a network's features
    metrics.FID_COLUMN: "torchmetrics on torch-fidelity's Inception, 2048 features. It falls as images are added: "
    "compare only rows of equally many.",
    metrics.STAND_IN_COLUMN: "Frechet distance between the features of a fixed random network. It is no FID and says "
    "nothing about quality.",
    lpips.LPIPS_COLUMN: "torchmetrics' LPIPS (Zhang et al. 2018) on torchvision's AlexNet, for each image, then "
    "averaged; 0 is equal.",
    lpips.STAND_IN_COLUMN: "the form of LPIPS on an AlexNet with fixed random weights. It is no LPIPS and says "
    "nothing about quality.",
}


def format_table(table: Sequence[dict[str, object]]) -> str:
    """Align rows as a Markdown table, which serves the screen as well."""
    cells = [list(table[0])]
    for row in table:
        cells.append([format_score(title, value) for title, value in row.items()])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    aligned = ([c[0].ljust(widths[0]), *(v.rjust(w) for v, w in zip(c[1:], widths[1:], strict=True))] for c in cells)
    return "\n".join(f"| {' | '.join(line)} |" for line in aligned)


def to_json(line: dict[str, object]) -> dict[str, object]:
    """Turn a line of the table into JSON: keys such as "delta_colorfulness"; "inf" and null for no number."""
    keys = [re.sub(r"\W+", "_", title).strip("_").lower() for title in line]
    values = ["inf" if value == math.inf else None if value != value else value for value in line.values()]
    return dict(zip(keys, values, strict=True))


def write_csv(path: Path, lines: Sequence[Mapping[str, object]]) -> None:
    """Write lines that have the same keys as a table, the keys first."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(lines[0]))
    writer.writeheader()
    writer.writerows(lines)
    write_text(path, text.getvalue())


def per_image_lines(keys: Sequence[str], rows: Sequence[Row], titles: Sequence[str]) -> list[dict[str, str]]:
    """List the scores of each image in each row, both in their order, without what was not scored.

    Args:
        keys: names of the images, (images,).
        rows: scored.
        titles: of the columns to list; a number that is not defined is left empty.
    """
    values = {row.name: {title: row.scores[title].tolist() for title in titles} for row in rows}
    return [
        {"Path": key, "Model": name, **{t: "" if math.isnan(v[i]) else f"{v[i]:.7g}" for t, v in scores.items()}}
        for i, key in enumerate(keys)
        for name, scores in values.items()
        if not math.isnan(scores["SSIM"][i])
    ]


def command_line() -> str:
    """Give the command that made the report."""
    under = f" (under torchrun, {world_size()} processes)" if world_size() > 1 else ""
    return shlex.join(["python", *sys.argv]) + under


def write_report(
    cfg: MetricsConfig,
    images: Sequence[Path],
    rows: Sequence[Row],
    fid: metrics.FID | None,
    fixed: Sequence[Path],
    skipped: dict[str, str],
) -> None:
    """Write the files to `cfg.output_dir`, and print the table and what was left out.

    Args:
        cfg: the settings, which the report repeats.
        images: all true images, in the order of the scores.
        rows: scored; the last two are Grayscale and Ground Truth.
        fid: holds the features of every row; None leaves the column out.
        fixed: true images for comparison.png, which is not written where the truth has none of them to show.
        skipped: true images that cannot be read, with the reason.
    """
    table, reference = make_table(rows, fid), rows[-1]
    count = len(images) - len(skipped)
    figure = [path for path in sorted(fixed) if path in reference.shown]
    settings = plain_config(cfg)
    settings |= {kind: {k: str(v) for k, v in settings[kind].items()} for kind in ("checkpoint", "results")}
    gray = count - int((~reference.scores["PSNR"].isnan()).sum())
    protocol = PROTOCOL.strip().format(**settings, shape=SHAPES[cfg.protocol], count=count, gray=gray).splitlines()
    protocol += [f"{title}: {LEARNED[title]}" for title in table[0] if title in LEARNED]
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

    keys = image_keys(cfg.images_dir, images)
    titles = [title for title in table[0] if title in DECIMALS]
    write_csv(cfg.output_dir / "evaluation_metrics.csv", table)
    write_csv(cfg.output_dir / "per_image.csv", per_image_lines(keys, rows, titles))

    if figure:  # unless none of the chosen images can be read
        columns = {}
        for row in (*rows[-2:], *rows[:-2]):  # Grayscale | Ground Truth | Generated ...
            title = row.name if row.name in (GRAYSCALE, GROUND_TRUTH) else generated_title(row.name)
            columns[title] = [row.shown.get(path) for path in figure]
        save_comparison_figure(cfg.output_dir / "comparison.png", columns)

    sections = {
        "Protocol": protocol,
        "Sources": [f"{row.name}: {', '.join(f'{k} {v}' for k, v in row.source.items() if v)}" for row in rows],
        "Versions": [f"{name} {value}" for name, value in versions.items()],
        "Command": [command_line()],
        "Skipped or missing": problems,
    }
    parts = ["# Colorization metrics", format_table(table)]
    parts += ["![Comparison](comparison.png)"] if figure else []
    parts += [
        f"## {title}\n\n" + "\n".join(f"- {line}" for line in lines) for title, lines in sections.items() if lines
    ]
    write_text(cfg.output_dir / "report.md", "\n\n".join(parts) + "\n")
    write_page(cfg.output_dir / "report.html", table, images, keys, rows, fixed, sections)

    say(format_table(table))
    if problems:
        say(f"{len(skipped)} images skipped, {sum(len(row.missing) for row in rows)} missing:")
        say("\n".join(problems))
    drawn = f": {cfg.output_dir / 'comparison.png'}" if figure else ": none, no image for it can be read"
    say(f"report: {cfg.output_dir / 'report.html'}, {cfg.output_dir / 'report.md'}, figure{drawn}")
