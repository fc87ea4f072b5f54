"""The report of an evaluation as one HTML file, which needs no other file, no network and no script."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image
from scipy.stats import bootstrap

from utils.files import write_text
from utils.images import resize
from utils.report.charts import SERIES, curves, histograms
from utils.report.fid import FID_COLUMN, FID_STAND_IN_COLUMN
from utils.report.lpips import LPIPS_COLUMN, LPIPS_STAND_IN_COLUMN
from utils.report.rows import DECIMALS, Row, Table, extremes, format_score
from utils.visualization import GRAYSCALE, GROUND_TRUTH, LOSS_LABELS, generated_title, read_log

LEVEL, RESAMPLES, SEED = 0.95, 2000, 0  # of the confidence intervals
_BATCH = 100_000  # values resampled at a time; they fit in the cache
_IMAGE_SIZE = 320  # pixels; larger images are shrunk to it
_AIMS = {"PSNR": "dB ↑", "SSIM": "↑", "MS-SSIM": "↑", "Colorfulness": "as the truth", "Delta colorfulness": "to 0"}
_AIMS |= dict.fromkeys((FID_COLUMN, FID_STAND_IN_COLUMN, LPIPS_COLUMN, LPIPS_STAND_IN_COLUMN), "↓")
_CURVES = {
    "Training losses": LOSS_LABELS,
    "Validation PSNR (dB)": {"val_psnr": "generated", "val_psnr_gray": "grayscale"},
    "Validation colorfulness": {"val_colorfulness": "generated", "val_colorfulness_truth": "ground truth"},
}


@dataclass(frozen=True)
class _Cell:
    """A number in a table; `is_marked` if it is the best of its column, or a difference whose interval excludes 0."""

    text: str
    interval: str
    is_marked: bool


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """Estimate the confidence interval of a mean by the percentile bootstrap (Efron 1979).

    Args:
        values: (N,), one per image. Values that are not finite are left out. For a paired comparison, pass the
            differences per image.

    Returns:
        Lower and upper end, at confidence LEVEL; NaN for fewer than two values.
    """
    finite = values[np.isfinite(values)].astype(np.float64)
    if len(finite) < 2:
        return math.nan, math.nan
    result = bootstrap(
        (finite,), np.mean, n_resamples=RESAMPLES, batch=max(1, _BATCH // len(finite)), confidence_level=LEVEL,
        method="percentile", rng=SEED,
    )  # fmt: skip
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def write_page(
    path: Path,
    table: Table,
    images: Sequence[Path],
    keys: Sequence[str],
    rows: Sequence[Row],
    fixed: Sequence[Path],
    sections: Mapping[str, Sequence[str]],
) -> None:
    """Write the page.

    Args:
        path: HTML file.
        table: made of `rows` by `utils.report.rows.make_table`.
        images: all true images, in the order of the scores.
        keys: their names on the page.
        rows: scored; the last two are Grayscale and Ground Truth.
        fixed: true images to show independent of their scores, if they can be read.
        sections: title -> lines, for the end of the page.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    models = rows[:-2]
    colors = {row.name: f"s{number % SERIES}" for number, row in enumerate(models)}
    colors |= {GRAYSCALE: "gray", GROUND_TRUTH: "truth"}
    uris = {(row.name, image): _data_uri(pixels) for row in rows for image, pixels in row.shown.items()}

    def panel(image: Path, chosen: Row | None = None, word: str = "") -> dict[str, object]:
        index = images.index(image)
        cells = [
            {
                "title": generated_title(row.name).replace("\n", " ") if row in models else row.name,
                "uri": uris.get((row.name, image)),
                "psnr": "" if row.name == GROUND_TRUTH else _decibels(row.scores["PSNR"][index].item()),
                "chosen": row is chosen,
            }
            for row in (*rows[-2:], *models)  # Grayscale | Ground Truth | Generated ...
        ]
        return {"key": keys[index], "word": word, "cells": cells}

    chosen = {row.name: [panel(images[i], row, word) for word, i in extremes(row).items()] for row in models}
    page = environment.get_template("page.html.jinja").render(
        level=f"{LEVEL:.0%}",
        resamples=RESAMPLES,
        seed=SEED,
        colors=colors,
        titles={title: _AIMS.get(title, "") for title in table[GROUND_TRUTH]},
        lines=_lines(table, rows),
        uneven=len({line["Images"] for line in table.values()}) > 1,
        differences=_differences(rows),
        distributions=_distributions(rows, colors),
        chosen={name: panels for name, panels in chosen.items() if panels},
        fixed=[panel(image) for image in sorted(fixed) if image in rows[-1].shown],
        training=_training(rows),
        sections={title: lines for title, lines in sections.items() if lines},
    )
    write_text(path, page)


def _data_uri(image: np.ndarray) -> str:
    """Encode an image (H, W, 3), uint8, as a data URI."""
    if max(image.shape) > _IMAGE_SIZE:
        image = resize(image, _IMAGE_SIZE, _IMAGE_SIZE)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=88, subsampling=0)  # no subsampling: color is the subject
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _number(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}").replace("inf", "\N{INFINITY}")


def _decibels(psnr: float) -> str:
    return "" if math.isnan(psnr) else _number(f"{psnr:.2f} dB")


def _interval(title: str, low: float, high: float) -> str:
    """Format an interval; empty if it is undefined or a single point, as for a row of equal values."""
    return _number(f"[{format_score(title, low)}, {format_score(title, high)}]") if low < high else ""


def _scores(row: Row, title: str) -> np.ndarray:
    return row.scores[title].double().numpy()


def _cost(title: str, line: Mapping[str, float]) -> float:
    """Return a cost that is lowest for the best model of a column; NaN if the column has no best."""
    if "olorfulness" in title:  # closest to the truth of the same images
        return abs(line["Delta colorfulness"])
    aim = _AIMS.get(title, "")
    return -line[title] if "↑" in aim else line[title] if "↓" in aim else math.nan


def _best(title: str, models: Sequence[Mapping[str, float]]) -> set[str]:
    """Return the best scores of a column, formatted; none unless there are several models, on equally many images."""
    if len(models) < 2 or len({line["Images"] for line in models}) > 1:
        return set()
    costs = [_cost(title, line) for line in models]
    best = min((cost for cost in costs if not math.isnan(cost)), default=math.nan)
    return {format_score(title, line[title]) for line, cost in zip(models, costs, strict=True) if cost == best}


def _lines(table: Table, rows: Sequence[Row]) -> dict[str, list[_Cell]]:
    """Format the table with its intervals, and mark the best models of each column."""
    models = [row.name for row in rows[:-2]]
    best = {title: _best(title, [table[name] for name in models]) for title in table[GROUND_TRUTH]}
    lines: dict[str, list[_Cell]] = {}
    for row in rows:
        lines[row.name] = []
        for title, value in table[row.name].items():
            text = format_score(title, value)
            interval = _interval(title, *mean_interval(_scores(row, title))) if title in row.scores else ""
            lines[row.name].append(_Cell(_number(text), interval, row.name in models and text in best[title]))
    return lines


def _differences(rows: Sequence[Row]) -> dict[str, object]:
    """Compare each model to grayscale and to the model before it, image by image."""
    models, gray = rows[:-2], rows[-2]
    titles = [
        t for t in gray.scores if t != "Delta colorfulness" and not all(m.scores[t].isnan().all() for m in models)
    ]
    pairs = [pair for i, row in enumerate(models) for pair in ((row, gray), *([(row, models[i - 1])] if i else []))]
    lines = []
    for row, other in pairs:
        cells = []
        for title in titles:
            with np.errstate(invalid="ignore"):  # inf - inf
                difference = _scores(row, title) - _scores(other, title)
            finite = difference[np.isfinite(difference)]
            low, high = mean_interval(finite)
            text = _number(f"{finite.mean():+.{DECIMALS[title]}f}") if len(finite) else ""
            cells.append(_Cell(text, _interval(title, low, high), low > 0 or high < 0))
        lines.append({"name": row.name, "other": other.name, "cells": cells})
    return {"titles": titles, "lines": lines}


def _distributions(rows: Sequence[Row], colors: Mapping[str, str]) -> list[dict[str, object]]:
    """Draw the histograms of PSNR and colorfulness, for every row that has them."""
    cards: list[dict[str, object]] = []
    for title, unit, trivial in (("PSNR", " dB", GROUND_TRUTH), ("Colorfulness", "", GRAYSCALE)):
        values = {row.name: _scores(row, title) for row in rows if row.name != trivial}
        values = {name: scores[np.isfinite(scores)] for name, scores in values.items()}
        values = {name: scores for name, scores in values.items() if len(scores)}
        if values:
            charts = histograms(title, values, colors)
            medians = {name: f"{np.median(scores):.{DECIMALS[title]}f}{unit}" for name, scores in values.items()}
            cards.append({"title": f"{title} (dB)" if unit else title, "charts": charts, "medians": medians})
    return cards


def _training(rows: Sequence[Row]) -> dict[str, dict[str, object]]:
    """Draw the training curves of the checkpoints that have a log.jsonl in their folder."""
    runs: dict[Path, list[str]] = {}
    for row in rows:
        if "checkpoint" in row.source:
            folder = Path(str(row.source["checkpoint"])).parent
            if row.source.get("stage") == "finetune_vgg" and folder.name != "vgg":
                folder /= "vgg"
            runs.setdefault(folder / "log.jsonl", []).append(row.name)
    training: dict[str, dict[str, object]] = {}
    for path, models in runs.items():
        log, names = read_log(path) if path.is_file() else [], ", ".join(models)
        charts = {
            title: curves(title, log, labels, names, labels is LOSS_LABELS) for title, labels in _CURVES.items()
        }
        if any(charts.values()):
            training[names] = {title: chart for title, chart in charts.items() if chart}
    return training
