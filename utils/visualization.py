"""Figures: comparisons of models, sample grids of a training run, and its losses."""

from __future__ import annotations

import gc
import io
import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter
from torch import Tensor

from utils.files import write_bytes
from utils.lab import network_to_rgb, to_uint8

GRAYSCALE, GROUND_TRUTH = "Grayscale", "Ground Truth"
_CELL_INCHES = 2.3  # at 120 dots an inch a 256-pixel image is shown about pixel for pixel
_DPI = 120
_MARGIN_INCHES = 0.03
_FEW_EPOCHS = 40  # up to here each epoch has a dot
LOSS_LABELS = {"loss_g_l1": "G: L1 of ab", "loss_g_gan": "G: adversarial", "loss_g_vgg": "G: VGG", "loss_d": "D"}


def generated_title(name: str) -> str:
    """Title the column of a model: "Generated (Subset)"; a note in parentheses goes to a second line."""
    model, _, note = name.partition(" (")
    return f"Generated ({model})" + (f"\n({note}" if note else "")


def save_comparison_figure(path: Path, columns: Mapping[str, Sequence[np.ndarray | None]]) -> None:
    """Write images side by side.

    Args:
        path: PNG file.
        columns: title -> images from top to bottom, (H, W, 3) or (H, W), uint8, the columns in the order of the
            mapping and equally long; None leaves a cell empty.
    """
    rows = list(zip(*columns.values(), strict=True))
    shapes = [next((image.shape for image in row if image is not None), (1, 1)) for row in rows]
    heights = [_CELL_INCHES * min(3.0, shape[0] / shape[1]) for shape in shapes]
    titles = ["\n".join(textwrap.fill(line, 29) for line in title.splitlines()) for title in columns]
    header = 0.14 + 0.17 * max(title.count("\n") + 1 for title in titles)
    size = (_CELL_INCHES * len(columns), sum(heights) + header)
    figure = Figure(figsize=size, dpi=_DPI)
    axes = figure.subplots(len(rows), len(columns), squeeze=False, gridspec_kw={"height_ratios": heights})
    figure.subplots_adjust(
        left=_MARGIN_INCHES / size[0],
        right=1 - _MARGIN_INCHES / size[0],
        bottom=_MARGIN_INCHES / size[1],
        top=1 - header / size[1],
        wspace=0.025,
        hspace=0.025,
    )
    for i, row in enumerate(rows):
        for axis, image in zip(axes[i], row, strict=True):
            axis.axis("off")
            if image is not None:
                axis.imshow(image, cmap="gray", vmin=0, vmax=255)
            else:
                axis.text(0.5, 0.5, "missing", transform=axis.transAxes, ha="center", va="center", color="gray")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=10, pad=5)
    _save(figure, path)


def save_sample_grid(path: Path, l: Tensor, ab_real: Tensor, ab_fake: Tensor) -> None:
    """Write a grid with a row for each sample: Grayscale, Ground Truth, Generated.

    Args:
        path: PNG file.
        l: (B, 1, H, W), in [-1, 1], as the networks see it.
        ab_real: (B, 2, H, W), in [-1, 1].
        ab_fake: likewise.
    """
    save_comparison_figure(
        path,
        {
            GRAYSCALE: _to_images(l, torch.zeros_like(ab_real)),
            GROUND_TRUTH: _to_images(l, ab_real),
            "Generated": _to_images(l, ab_fake),
        },
    )


def _to_images(l: Tensor, ab: Tensor) -> list[np.ndarray]:
    """Compose network tensors to (H, W, 3) uint8 images."""
    return list(to_uint8(network_to_rgb(l.detach(), ab.detach())).permute(0, 2, 3, 1).cpu().numpy())


def read_log(path: Path) -> list[dict[str, float]]:
    """Read log.jsonl, one JSON object an epoch, in their order; of an epoch there twice the last one counts."""
    epochs: dict[int, dict[str, float]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
            epochs[record["epoch"]] = record
        except (json.JSONDecodeError, KeyError, TypeError):
            continue  # a line that an interrupted run cut short
    return [epochs[epoch] for epoch in sorted(epochs)]


def save_loss_plot(log_path: Path, png_path: Path) -> None:
    """Plot the losses and the validation scores of a training run.

    Args:
        log_path: log.jsonl, as `read_log` reads it.
        png_path: PNG file.
    """
    log = read_log(log_path)
    figure = Figure(figsize=(13.5, 4), dpi=_DPI, layout="constrained")
    losses, quality, color = figure.subplots(1, 3)
    for number, (key, label) in enumerate(LOSS_LABELS.items()):
        _plot(losses, log, key, label, f"C{number}")
    losses.set_yscale("log")
    losses.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    losses.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    losses.yaxis.set_minor_formatter(NullFormatter())
    _plot(quality, log, "val_psnr", "generated", "tab:blue")
    _plot(quality, log, "val_psnr_gray", "grayscale", "tab:gray", "--")
    _plot(color, log, "val_colorfulness", "generated", "tab:blue")
    _plot(color, log, "val_colorfulness_truth", "ground truth", "tab:gray", "--")
    color.set_ylim(bottom=0)
    titles = ("Training losses", "Validation PSNR (dB)", "Validation colorfulness")
    for axis, title in zip((losses, quality, color), titles, strict=True):
        axis.set_title(title, pad=24)
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        if axis.lines:
            axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncol=4, frameon=False, fontsize=9)
    if len(log) == 1:
        for axis in (losses, quality, color):
            axis.set_xlim(log[0]["epoch"] - 1, log[0]["epoch"] + 1)
    _save(figure, png_path)


def _plot(axis: Axes, log: Sequence[Mapping[str, float]], key: str, label: str, color: str, style: str = "-") -> None:
    """Draw one quantity over the epochs that have it."""
    points = [(record["epoch"], record[key]) for record in log if record.get(key) is not None]
    if points:
        epochs, values = zip(*points, strict=True)
        marker = "o" if len(points) <= _FEW_EPOCHS and style == "-" else ""
        axis.plot(epochs, values, style, color=color, label=label, marker=marker, markersize=4)
        if len(points) == 1 and not marker:
            axis.axhline(values[0], linestyle=style, color=color)


def _save(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", pil_kwargs={"compress_level": 1})  # a third of the time, 12% more bytes
    write_bytes(path, buffer.getvalue())
    figure.clear()
    gc.collect()  # what is left of it refers to itself: 15 MB that Python would free after some more of them
