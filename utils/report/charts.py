"""Charts of the report: SVG elements, drawn by matplotlib, that take their colors from the page's style sheet."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence

import matplotlib.style
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

SERIES = 8  # the style sheet has --s0 to --s7, for models and losses
WIDTH = 300  # units; about one CSS pixel each on a phone 360 pixels wide
_LANE, _AXIS, _CURVES = 44, 22, 210  # heights of a histogram, its axis, and a chart of curves, in units
_MARGIN = 14  # units beside a histogram, for the numbers at the ends of its axis
_BINS = 32
_STEPS = [1, 2, 5, 10]  # between the numbers on an axis, times a power of ten
_FEW_EPOCHS = 40  # up to here, each epoch has a dot
_NAMES = (*(f"s{i}" for i in range(SERIES)), "gray", "truth", "ink", "soft", "rule")
_COLORS = {name: f"#0000{number:02x}" for number, name in enumerate(_NAMES, 1)}  # each stands for var(--name)
_STYLE: dict[str, object] = {
    **dict.fromkeys(("axes.edgecolor", "text.color", "xtick.color", "ytick.color"), _COLORS["soft"]),
    **dict.fromkeys(("axes.spines.left", "axes.spines.right", "axes.spines.top", "figure.frameon"), False),
    **{"axes.facecolor": "none", "axes.xmargin": 0.02, "grid.color": _COLORS["rule"], "ytick.major.size": 0},
    **{"font.family": "sans-serif", "font.sans-serif": "DejaVu Sans", "font.size": 11, "svg.fonttype": "none"},
    **{"lines.linewidth": 2, "lines.markersize": 4},
}


def _render(label: str, height: float, draw: Callable[[Figure], None]) -> Markup:
    """Draw a figure of WIDTH x `height` units as an SVG element.

    `label` describes it to screen readers. It also salts the ids, so it must be unique on the page.
    """
    text = io.StringIO()
    with matplotlib.style.context(["default", {**_STYLE, "svg.hashsalt": label}]):  # independent of matplotlibrc
        figure = Figure(figsize=(WIDTH / 72, height / 72))  # inches of 72 units
        draw(figure)
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    figure.clear()
    body = text.getvalue().partition("<svg")[2].partition(">")[2]
    body = re.sub(r' id="[\w.]+_\d+"', "", body)  # such as "patch_1": not unique, and unused
    for name, color in _COLORS.items():
        body = body.replace(color, f"var(--{name})")
    head = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(WIDTH, height, label)
    return head + Markup(body)  # matplotlib escapes its texts


def histograms(title: str, values: Mapping[str, np.ndarray], colors: Mapping[str, str]) -> dict[str, Markup]:
    """Draw a histogram for each model, with its median as a dashed line; the last one has the common axis.

    All have the same bins, and the same scale of heights, which are fractions of the values.

    Args:
        title: of the score.
        values: model -> finite scores (N,), at least one.
        colors: model -> the name of its color in the style sheet, such as "s0".
    """
    everything = np.concatenate(list(values.values()))
    low, high = everything.min(), everything.max()
    edges = np.linspace(*((low, high) if high - low > 1e-6 else (low - 1, high + 1)), _BINS + 1)
    shares = {name: np.histogram(scores, edges)[0] / len(scores) for name, scores in values.items()}
    top = max(share.max() for share in shares.values())

    def chart(name: str, is_last: bool) -> Markup:
        median, below = np.median(values[name]), _AXIS if is_last else 1
        height = _LANE + below

        def draw(figure: Figure) -> None:
            axes = figure.add_axes((_MARGIN / WIDTH, below / height, 1 - 2 * _MARGIN / WIDTH, _LANE / height))
            axes.stairs(shares[name], edges, fill=True, color=_COLORS[colors[name]])
            axes.axvline(median, color=_COLORS["ink"], linestyle="--", linewidth=1.5)
            axes.set(xlim=edges[[0, -1]], ylim=(0, 1.05 * top), yticks=[])
            axes.xaxis.set_major_locator(MaxNLocator(5, steps=_STEPS))
            axes.tick_params(bottom=is_last, labelbottom=is_last)

        label = f"{title} of {name}: histogram of {len(values[name])} images, median {median:.2f}"
        return _render(label, height, draw)

    return {name: chart(name, number == len(values)) for number, name in enumerate(values, 1)}


def curves(
    title: str, log: Sequence[Mapping[str, float]], labels: Mapping[str, str], names: str, losses: bool = False
) -> Markup | None:
    """Draw quantities of a training run over its epochs; None if the log has none of them.

    Args:
        title: of the chart.
        log: a record for each epoch, with "epoch"; a quantity may be absent or null.
        labels: key in the log -> name in the legend. Without `losses`, the second one is a reference: a horizontal
            line at its last value.
        names: of the models from this run.
        losses: use a logarithmic axis, which leaves out values that are not positive.
    """
    epochs = np.array([record["epoch"] for record in log])
    series = {key: np.array([record.get(key) for record in log], np.float64) for key in labels}
    shown = {key: np.isfinite(values) & ((values > 0) | (not losses)) for key, values in series.items()}
    if not any(mask.any() for mask in shown.values()):
        return None

    def draw(figure: Figure) -> None:
        figure.set_layout_engine("constrained")
        axes = figure.subplots()
        for number, (key, label) in enumerate(labels.items()):
            x, y = epochs[shown[key]], series[key][shown[key]]
            if len(y) and number == 1 and not losses:
                axes.axhline(y[-1], color=_COLORS["gray"], linestyle="--", label=label)
            elif len(y):
                axes.plot(x, y, "o-" if len(y) <= _FEW_EPOCHS else "-", color=_COLORS[f"s{number}"], label=label)
        if losses:
            axes.set_yscale("log")
            low, high = axes.get_ylim()
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
            axes.yaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        elif "colorfulness" in title:
            axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=_STEPS, integer=True, min_n_ticks=1))
        axes.grid(axis="y")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)

    return _render(f"{title} of {names} over the epochs", _CURVES, draw)
