from __future__ import annotations

import json
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pytest
import skimage.data
import torch

from utils.lab import normalize_ab, normalize_l, rgb_to_lab
from utils.visualization import generated_title, save_comparison_figure, save_loss_plot, save_sample_grid


def read(path: Path) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def flat(*rgb: int, side: int = 64) -> np.ndarray:
    return np.full((side, side, 3), rgb, np.uint8)


@pytest.mark.parametrize("rows", [1, 4, 8])
def test_save_comparison_figure_keeps_order_of_columns_and_rows(tmp_path: Path, rows: int) -> None:
    colors = {"Grayscale": (100, 100, 100), "Ground Truth": (200, 30, 30), "Generated (Subset)": (30, 30, 200)}
    columns = {title: [flat(*(channel + row for channel in color)) for row in range(rows)]
               for title, color in colors.items()}  # fmt: skip
    save_comparison_figure(tmp_path / "figure.png", columns)
    figure = read(tmp_path / "figure.png")
    height, width = figure.shape[:2]
    header = height - rows * width / 3
    assert 20 < header < 0.25 * width
    for i in range(rows):
        for j, color in enumerate(colors.values()):
            center = figure[int(header + (i + 0.5) * (height - header) / rows), int((j + 0.5) * width / 3)]
            assert center.tolist() == [channel + i for channel in color]
    assert (figure[: int(header) - 12] < 128).any(), "the titles"


def test_save_comparison_figure_leaves_missing_cell_white(tmp_path: Path) -> None:
    columns = {"Ground Truth": [flat(9, 9, 9), flat(9, 9, 9)], "Generated (Other)": [None, flat(9, 9, 9)]}
    save_comparison_figure(tmp_path / "figure.png", columns)
    figure = read(tmp_path / "figure.png")
    height, width = figure.shape[:2]
    assert (figure[height // 4 + 60, width * 3 // 4] == 255).all()
    assert (figure[height * 3 // 4 + 20, width * 3 // 4] == 9).all()


def test_save_comparison_figure_refuses_columns_of_different_length(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shorter"):
        save_comparison_figure(tmp_path / "figure.png", {"a": [flat(0, 0, 0)], "b": []})
    assert not list(tmp_path.iterdir())


def test_generated_title_puts_note_on_second_line() -> None:
    assert generated_title("Subset") == "Generated (Subset)"
    assert generated_title("Finetune+VGG (stand-in VGG)") == "Generated (Finetune+VGG)\n(stand-in VGG)"


def test_save_sample_grid_shows_gray_truth_and_generated(tmp_path: Path) -> None:
    photo = torch.from_numpy(skimage.data.chelsea()[:128, 100:228].copy()).permute(2, 0, 1)[None] / 255
    lab = rgb_to_lab(photo).repeat(2, 1, 1, 1)
    l, ab = normalize_l(lab[:, :1]), normalize_ab(lab[:, 1:])
    save_sample_grid(tmp_path / "samples" / "grid.png", l, ab, -ab)
    grid = read(tmp_path / "samples" / "grid.png").astype(int)
    height, width = grid.shape[:2]
    gray, truth, generated = (
        grid[height // 2 : -30, width * i // 3 + 20 : width * (i + 1) // 3 - 20].mean(axis=(0, 1)) for i in range(3)
    )
    assert np.ptp(gray) < 1
    assert truth[0] > truth[2] + 20, "the cat is reddish"
    assert generated[0] < generated[2] - 20, "its opposite is bluish"


def test_save_loss_plot_reads_a_log_with_gaps(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    first = {"epoch": 1, "loss_d": 0.5, "loss_g_gan": 0.4, "loss_g_l1": 0.1}
    second = {
        **first,
        "epoch": 2,
        "loss_g_vgg": 1.5,
        "val_psnr": 23.0,
        "val_psnr_gray": 22.5,
        "val_colorfulness": 9.0,
    }
    log.write_text("\n".join([json.dumps(first), json.dumps(second), '{"epoch": 3, "lo']))
    save_loss_plot(log, tmp_path / "losses.png")
    plot = read(tmp_path / "losses.png")
    assert plot.shape[1] > 1200
    blue, green = np.array([31, 119, 180]), np.array([44, 160, 44])
    assert (plot == blue).all(axis=2).any() and (plot == green).all(axis=2).any()


@pytest.mark.parametrize("epochs", [0, 1, 100])
def test_save_loss_plot_works_for_any_number_of_epochs(tmp_path: Path, epochs: int) -> None:
    log = tmp_path / "log.jsonl"
    keys = ("loss_d", "loss_g_gan", "loss_g_l1", "val_psnr", "val_psnr_gray", "val_colorfulness")
    lines = [json.dumps({"epoch": epoch, **dict.fromkeys(keys, 1 / epoch)}) for epoch in range(1, epochs + 1)]
    log.write_text("\n".join(lines))
    save_loss_plot(log, tmp_path / "losses.png")
    assert read(tmp_path / "losses.png").std() > 0


def test_figures_leave_matplotlib_alone(tmp_path: Path) -> None:
    backend = matplotlib.rcParams._get("backend") if hasattr(matplotlib.rcParams, "_get") else None
    save_comparison_figure(tmp_path / "figure.png", {"a": [flat(0, 0, 0)]})
    assert backend is None or matplotlib.rcParams._get("backend") == backend
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]
