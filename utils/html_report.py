"""The report of an evaluation as a page: one HTML file that needs no other, no network and no script."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from utils import lpips, metrics
from utils.bootstrap import LEVEL, RESAMPLES, SEED, mean_intervals
from utils.charts import Curve, Histograms, curves
from utils.evaluation import DECIMALS, Row, extremes, format_score
from utils.files import write_text
from utils.images import resize
from utils.visualization import GRAYSCALE, GROUND_TRUTH, LOSS_LABELS, generated_title, read_log

_TEMPLATE = "report.html.jinja"
_SERIES = 8  # colors in the template
_IMAGE_SIZE = 320  # pixels; larger images are shrunk to it
_JPEG = {"quality": 88, "subsampling": 0}  # with all of their color
_LESS_IS_BETTER = (metrics.FID_COLUMN, metrics.STAND_IN_COLUMN, lpips.LPIPS_COLUMN, lpips.STAND_IN_COLUMN)
_AIMS = {"PSNR": "dB ↑", "SSIM": "↑", "MS-SSIM": "↑", "Colorfulness": "as the truth", "Delta colorfulness": "to 0"}
_AIMS |= dict.fromkeys(_LESS_IS_BETTER, "↓")
_LOSS_COLORS = {"loss_g_l1": "s0", "loss_g_gan": "s1", "loss_g_vgg": "s2", "loss_d": "s3"}
_VALIDATION = {
    "Validation PSNR (dB)": {"val_psnr": "generated", "val_psnr_gray": "grayscale"},
    "Validation colorfulness": {"val_colorfulness": "generated", "val_colorfulness_truth": "ground truth"},
}


def write_page(
    path: Path,
    table: Sequence[Mapping[str, object]],
    images: Sequence[Path],
    keys: Sequence[str],
    rows: Sequence[Row],
    fixed: Sequence[Path],
    sections: Mapping[str, Sequence[str]],
) -> None:
    """Write the page.

    Args:
        path: HTML file.
        table: a line for each row, as `utils.evaluation.make_table` makes it.
        images: all true images, in the order of the scores.
        keys: their names on the page.
        rows: scored, in the order of the table; the last two are Grayscale and Ground Truth.
        fixed: true images that are shown whatever their scores, as far as the rows have them to show.
        sections: title -> lines, for the end of the page.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    models = rows[:-2]
    uris = {(row.name, image): _data_uri(pixels) for row in rows for image, pixels in row.shown.items()}

    def panel(image: Path, row: Row | None = None, word: str = "") -> dict[str, object]:
        index = images.index(image)
        cells = [
            {
                "title": generated_title(each.name).replace("\n", " ") if each in models else each.name,
                "uri": uris.get((each.name, image)),
                "psnr": "" if each.name == GROUND_TRUTH else _decibels(each.scores["PSNR"][index].item()),
                "chosen": each is row,
            }
            for each in (*rows[-2:], *models)  # Grayscale | Ground Truth | Generated ...
        ]
        return {"key": keys[index], "word": word, "cells": cells}

    chosen = {row.name: [panel(images[i], row, word) for word, i in extremes(row).items()] for row in models}
    page = environment.get_template(_TEMPLATE).render(
        level=f"{LEVEL:.0%}".replace("%", " %"),
        resamples=RESAMPLES,
        seed=SEED,
        titles={title: _AIMS.get(title, "") for title in table[0]},
        lines=_lines(table, rows),
        uneven=len({line["Images"] for line in table}) > 1,
        differences=_differences(rows),
        distributions=_distributions(rows),
        chosen={name: panels for name, panels in chosen.items() if panels},
        fixed=[panel(image) for image in sorted(fixed) if image in rows[-1].shown],
        columns=len(rows),
        training=_training(rows),
        sections={title: lines for title, lines in sections.items() if lines},
    )
    write_text(path, page)


def _data_uri(image: np.ndarray) -> str:
    """Encode an image (H, W, 3), uint8, for the page itself."""
    if max(image.shape) > _IMAGE_SIZE:
        image = resize(image, _IMAGE_SIZE, _IMAGE_SIZE)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", **_JPEG)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _number(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}").replace("inf", "\N{INFINITY}")


def _decibels(psnr: float) -> str:
    return "" if math.isnan(psnr) else _number(f"{psnr:.2f} dB")


def _interval(title: str, ends: np.ndarray) -> str:
    """Write an interval; nothing where there is none or it is a single point, as of a row of equal values."""
    if np.isnan(ends).any() or ends[0] == ends[1]:
        return ""
    return _number("[" + ", ".join(format_score(title, float(end)) for end in ends) + "]")


def _scores(row: Row, title: str) -> np.ndarray:
    return row.scores[title].double().numpy()


def _lines(table: Sequence[Mapping[str, object]], rows: Sequence[Row]) -> list[dict[str, object]]:
    """Fill the table: texts, intervals, and the best of each column among the models where there are several."""
    measured = [title for title in table[0] if title in rows[0].scores]
    pairs = [(i, title) for i in range(len(rows)) for title in measured]
    intervals = mean_intervals(np.stack([_scores(rows[i], title) for i, title in pairs], axis=1))
    texts = dict(
        zip(pairs, (_interval(title, ends) for (_, title), ends in zip(pairs, intervals, strict=True)), strict=True)
    )
    lines = []
    for i, (line, row) in enumerate(zip(table, rows, strict=True)):
        cells = [
            {"text": _number(format_score(title, value)), "interval": texts.get((i, title), ""), "best": False}
            for title, value in line.items()
            if title != "Model"
        ]
        lines.append({"name": row.name, "color": _color(rows, row), "reference": row in rows[-2:], "cells": cells})
    models = lines[:-2]
    comparable = len(models) > 1 and len({line["Images"] for line in table[:-2]}) == 1
    for number, title in enumerate([title for title in table[0] if title != "Model"]):
        costs = [_cost(title, line) for line in table[:-2]]
        costs = [cost for cost in costs if not math.isnan(cost)]
        best = min(costs, default=math.nan)
        marked = {models[i]["cells"][number]["text"] for i in range(len(models)) if _cost(title, table[i]) == best}
        for line in models:
            line["cells"][number]["best"] = comparable and line["cells"][number]["text"] in marked
    return lines


def _cost(title: str, line: Mapping[str, object]) -> float:
    """Say how far a model is from the best there could be in a column; NaN where that means nothing."""
    if title in ("Colorfulness", "Delta colorfulness"):  # nearest to the truth of the same images
        return abs(line["Delta colorfulness"])
    if title in _LESS_IS_BETTER:
        return line[title]
    return -line[title] if title in _AIMS else math.nan


def _color(rows: Sequence[Row], row: Row) -> str:
    return {GRAYSCALE: "gray", GROUND_TRUTH: "truth"}.get(row.name) or f"s{rows.index(row) % _SERIES}"


def _differences(rows: Sequence[Row]) -> dict[str, object]:
    """Compare each model with grayscale and with the model above it, image by image."""
    models, gray = rows[:-2], rows[-2]
    titles = [
        title
        for title in models[0].scores
        if title != "Delta colorfulness" and not all(row.scores[title].isnan().all() for row in models)
    ]
    pairs = [pair for i, row in enumerate(models) for pair in ((row, gray), *([(row, models[i - 1])] if i else []))]
    with np.errstate(invalid="ignore"):  # inf - inf
        columns = [_scores(a, title) - _scores(b, title) for a, b in pairs for title in titles]
    intervals = iter(mean_intervals(np.stack(columns, axis=1)))
    means = (np.mean(column[np.isfinite(column)]) if np.isfinite(column).any() else math.nan for column in columns)
    lines = []
    for a, b in pairs:
        cells = []
        for title in titles:
            mean, ends = float(next(means)), next(intervals)
            text = "" if math.isnan(mean) else _number(f"{mean:+.{DECIMALS[title]}f}")
            apart = bool(ends[0] > 0 or ends[1] < 0)
            cells.append({"text": text, "interval": _interval(title, ends), "apart": apart})
        lines.append({"name": a.name, "other": b.name, "cells": cells})
    return {"titles": titles, "lines": lines}


def _distributions(rows: Sequence[Row]) -> list[dict[str, object]]:
    """Draw the histograms of PSNR and colorfulness, of every row that has them."""
    charts = []
    for title, unit, trivial in (("PSNR", " dB", GROUND_TRUTH), ("Colorfulness", "", GRAYSCALE)):
        values = {row.name: _scores(row, title) for row in rows if row.name != trivial}
        values = {name: scores[np.isfinite(scores)] for name, scores in values.items()}
        values = {name: scores for name, scores in values.items() if len(scores)}
        if not values:
            continue
        chart = Histograms(list(values.values()))
        lanes = []
        for index, (name, scores) in enumerate(values.items()):
            color = _color(rows, next(row for row in rows if row.name == name))
            median = f"{np.median(scores):.{DECIMALS[title]}f}{unit}"
            svg = chart.lane(index, color, f"{title} of {name}: histogram of {len(scores)} images, median {median}")
            lanes.append({"name": name, "color": color, "median": median, "count": len(scores), "svg": svg})
        charts.append(
            {"title": f"{title}{f' ({unit.strip()})' if unit else ''}", "lanes": lanes, "axis": chart.axis(title)}
        )
    return charts


def _training(rows: Sequence[Row]) -> list[dict[str, object]]:
    """Draw the curves of the runs whose checkpoints are scored, where log.jsonl lies beside them."""
    runs: dict[Path, list[str]] = {}
    for row in rows:
        if "checkpoint" in row.source:
            folder = Path(str(row.source["checkpoint"])).parent
            if row.source.get("stage") == "finetune_vgg" and folder.name != "vgg":
                folder /= "vgg"
            runs.setdefault(folder / "log.jsonl", []).append(row.name)
    training = []
    for path, names in runs.items():
        log = read_log(path) if path.is_file() else []
        charts = [_chart("Training losses", log, LOSS_LABELS, log_scale=True)]
        charts += [_chart(title, log, labels) for title, labels in _VALIDATION.items()]
        if charts := [chart for chart in charts if chart]:
            training.append({"name": ", ".join(names), "charts": charts})
    return training


def _chart(
    title: str, log: Sequence[Mapping[str, object]], labels: Mapping[str, str], log_scale: bool = False
) -> dict[str, object] | None:
    """Draw some quantities of a training run over its epochs; the last of two is what the first is compared with."""
    lines = []
    for number, (key, label) in enumerate(labels.items()):
        points = [(record["epoch"], record.get(key)) for record in log]
        points = [(x, float(y)) for x, y in points if isinstance(y, int | float) and math.isfinite(y)]
        points = [(x, y) for x, y in points if y > 0 or not log_scale]
        reference = number == 1 and not log_scale
        if points:
            lines.append(Curve(label, "gray" if reference else _LOSS_COLORS.get(key, "s0"), points, reference))
    if not lines:
        return None
    svg = curves(lines, f"{title} over the epochs", log_scale, from_zero="colorfulness" in title)
    return {"title": title, "curves": lines, "svg": svg}
