"""The files of an evaluation's report.

evaluation_metrics.json has everything, evaluation_metrics.csv the table, and per_image.csv the scores that it
averages. report.html, and report.md with comparison.png, are for reading.
"""

from __future__ import annotations

import csv
import io
import math
import platform
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import cv2
import torch

from config import MetricsConfig
from utils.data.samples import image_keys
from utils.files import write_json, write_text
from utils.report.fid import FID, FID_COLUMN, FID_STAND_IN_COLUMN
from utils.report.lpips import LPIPS_COLUMN, LPIPS_STAND_IN_COLUMN
from utils.report.page import write_page
from utils.report.rows import DECIMALS, Row, Table, format_score, make_table
from utils.run import git_commit, plain_config, say, world_size
from utils.visualization import GRAYSCALE, GROUND_TRUTH, generated_title, save_comparison_figure

NAMED_PROBLEMS = 20  # on the screen and in report.md; the JSON file has all of them
PROTOCOL = """
{count} images, {gray} of them gray: the first {max_images} of {images_dir} in sorted order, without those skipped.
Both sides: {shape} {img_size} x {img_size}; shrunk with a triangle filter (antialiased), enlarged with bicubic \
interpolation.
A generator sees the L of the truth, resized to its working size. Its ab is resized back and combined with the L of \
the truth. Colors outside sRGB are moved toward gray at constant L and hue. Every image is rounded to 8 bits before \
it is scored. Color profiles are ignored. \
infer_lab.py applies them, so what it makes of photographs with another profile than sRGB scores lower with --results.
PSNR (over the three channels), SSIM and MS-SSIM (Gaussian window of 11 x 11, sigma 1.5): computed per image as in \
torchmetrics, then averaged. PSNR excludes images whose truth is gray. Images equal to the truth, whose PSNR is \
infinite, count only if there are no others.
Colorfulness: Hasler and Suesstrunk 2003, signed opponent channels, averaged over the images. Delta colorfulness: \
the mean of a row minus the mean of the truth over the same images, signed.
A row with missing images is scored on the remaining ones; the last column gives their number.
"""
SHAPES = {"squash": "the whole image, resized to", "center-crop": "the central square of the image, resized to"}
LEARNED = {  # columns computed from the features of a network
    FID_COLUMN: "torchmetrics on torch-fidelity's Inception, 2048 features. It depends on the number of images: "
    "compare only rows with the same number.",
    FID_STAND_IN_COLUMN: "Frechet distance between the features of a fixed random network. It is not FID and says "
    "nothing about quality.",
    LPIPS_COLUMN: "torchmetrics' LPIPS (Zhang et al. 2018) on torchvision's AlexNet, computed per image, then "
    "averaged; 0 for equal images.",
    LPIPS_STAND_IN_COLUMN: "LPIPS computed with a fixed random AlexNet. It is not LPIPS and says nothing about "
    "quality.",
}


def format_table(table: Table) -> str:
    """Format the scores as an aligned Markdown table."""
    cells = [["Model", *next(iter(table.values()))]]
    cells += [[name, *(format_score(*score) for score in line.items())] for name, line in table.items()]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    aligned = ([c[0].ljust(widths[0]), *(v.rjust(w) for v, w in zip(c[1:], widths[1:], strict=True))] for c in cells)
    return "\n".join(f"| {' | '.join(line)} |" for line in aligned)


def to_json(line: Mapping[str, float]) -> dict[str, object]:
    """Convert scores for JSON: keys such as "delta_colorfulness"; "inf" for infinity and null for NaN."""
    keys = [re.sub(r"\W+", "_", title).strip("_").lower() for title in line]
    values = ["inf" if value == math.inf else None if math.isnan(value) else value for value in line.values()]
    return dict(zip(keys, values, strict=True))


def write_csv(path: Path, lines: Sequence[Mapping[str, object]]) -> None:
    """Write lines with the same keys, after a header of these keys."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(lines[0]))
    writer.writeheader()
    writer.writerows(lines)
    write_text(path, text.getvalue())


def per_image_lines(keys: Sequence[str], rows: Sequence[Row], titles: Sequence[str]) -> list[dict[str, str]]:
    """List the scores of each image in each row, without what was not scored.

    Args:
        keys: names of the images, (images,).
        rows: scored.
        titles: columns to list; undefined scores are left empty.
    """
    values = {row.name: {title: row.scores[title].tolist() for title in titles} for row in rows}
    return [
        {"Path": key, "Model": name, **{t: "" if math.isnan(v[i]) else f"{v[i]:.7g}" for t, v in scores.items()}}
        for i, key in enumerate(keys)
        for name, scores in values.items()
        if not math.isnan(scores["SSIM"][i])
    ]


def command_line() -> str:
    """Return the command that made the report."""
    under = f" (under torchrun, {world_size()} processes)" if world_size() > 1 else ""
    return shlex.join(["python", *sys.argv]) + under


def _protocol(cfg: MetricsConfig, titles: Iterable[str], reference: Row, count: int) -> list[str]:
    """State how `count` images were scored, in `titles`; `reference` is the row of the truth."""
    gray = count - int((~reference.scores["PSNR"].isnan()).sum())
    text = PROTOCOL.strip().format(**plain_config(cfg), shape=SHAPES[cfg.protocol], count=count, gray=gray)
    return [*text.splitlines(), *(f"{title}: {LEARNED[title]}" for title in titles if title in LEARNED)]


def _versions(cfg: MetricsConfig) -> dict[str, str]:
    packages = ("torch", "torchmetrics", "torch-fidelity", "numpy", "scikit-image")
    return {
        "commit": git_commit(),
        "device": torch.cuda.get_device_name(cfg.device) if cfg.device.startswith("cuda") else cfg.device,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "opencv": cv2.__version__,
    }


def _write_figure(path: Path, rows: Sequence[Row], fixed: Sequence[Path]) -> bool:
    """Draw comparison.png; return False, without a file, if none of the images of `fixed` can be read."""
    images = [image for image in sorted(fixed) if image in rows[-1].shown]
    columns = {}
    for row in (*rows[-2:], *rows[:-2]):  # Grayscale | Ground Truth | Generated ...
        title = row.name if row.name in (GRAYSCALE, GROUND_TRUTH) else generated_title(row.name)
        columns[title] = [row.shown.get(image) for image in images]
    if images:
        save_comparison_figure(path, columns)
    return bool(images)


def write_report(
    cfg: MetricsConfig,
    images: Sequence[Path],
    rows: Sequence[Row],
    fid: FID | None,
    fixed: Sequence[Path],
    skipped: dict[str, str],
) -> None:
    """Write the files to `cfg.output_dir`, and print the table and the problems.

    Args:
        cfg: the settings, which the report repeats.
        images: all true images, in the order of the scores.
        rows: scored; the last two are Grayscale and Ground Truth.
        fid: holds the features of every row; None omits the column.
        fixed: true images for comparison.png, if they can be read.
        skipped: true images that cannot be read, with the reason.
    """
    table, folder = make_table(rows, fid), cfg.output_dir
    titles = list(table[GROUND_TRUTH])
    settings = plain_config(cfg)
    settings |= {"checkpoint": {name: str(path) for name, path in cfg.checkpoint.items()}}
    settings |= {"results": {name: str(path) for name, path in cfg.results.items()}}
    protocol, versions = _protocol(cfg, titles, rows[-1], len(images) - len(skipped)), _versions(cfg)
    lines = [
        {"model": row.name, **to_json(table[row.name]), "source": row.source, "missing": row.missing} for row in rows
    ]
    content = {"settings": settings, "protocol": protocol, "versions": versions, "rows": lines, "skipped": skipped}
    write_json(folder / "evaluation_metrics.json", content)

    keys = image_keys(cfg.images_dir, images)
    write_csv(folder / "evaluation_metrics.csv", [{"Model": name, **line} for name, line in table.items()])
    write_csv(folder / "per_image.csv", per_image_lines(keys, rows, [title for title in titles if title in DECIMALS]))

    problems = [f"{path}: {reason}" for path, reason in skipped.items()]
    problems += [f"{row.name}, {path}: {reason}" for row in rows for path, reason in row.missing.items()]
    if len(problems) > NAMED_PROBLEMS:
        problems[NAMED_PROBLEMS:] = [f"... and {len(problems) - NAMED_PROBLEMS} more, in evaluation_metrics.json"]
    sections = {
        "Protocol": protocol,
        "Sources": [f"{row.name}: {', '.join(f'{k} {v}' for k, v in row.source.items() if v)}" for row in rows],
        "Versions": [f"{name} {value}" for name, value in versions.items()],
        "Command": [command_line()],
        "Skipped or missing": problems,
    }
    has_figure = _write_figure(folder / "comparison.png", rows, fixed)
    parts = ["# Colorization metrics", format_table(table)]
    parts += ["![Comparison](comparison.png)"] if has_figure else []
    parts += [f"## {title}\n\n" + "\n".join(f"- {line}" for line in text) for title, text in sections.items() if text]
    write_text(folder / "report.md", "\n\n".join(parts) + "\n")
    write_page(folder / "report.html", table, images, keys, rows, fixed, sections)

    say(format_table(table))
    if problems:
        say(f"{len(skipped)} images skipped, {sum(len(row.missing) for row in rows)} missing:")
        say("\n".join(problems))
    drawn = f": {folder / 'comparison.png'}" if has_figure else ": none, because no image for it can be read"
    say(f"report: {folder / 'report.html'}, {folder / 'report.md'}, figure{drawn}")
