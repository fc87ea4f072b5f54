"""What the recipe was chosen by: the changes that were tried, and the scores of a set's colors."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import train_lab
from benchmarks.ablate import table
from benchmarks.color_scores import ab_histogram, gain_at_share, score
from benchmarks.variants import VARIANTS, Rarity, cell_of
from config import TrainConfig
from utils.images import write_png
from utils.sample_data import load_photo


class Constant(nn.Module):
    """Predict the same color everywhere."""

    def __init__(self, a: float, b: float):
        super().__init__()
        self.ab = torch.tensor([a, b]).view(1, 2, 1, 1)

    def forward(self, l: Tensor) -> Tensor:
        return self.ab.expand(len(l), 2, *l.shape[-2:])


def test_variants_change_what_train_lab_has() -> None:
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    for name, phases in VARIANTS.items():
        assert sum(phase.share for phase in phases) in (1, 2), name
        for phase in phases:
            assert phase.flags.keys() <= fields, name
            assert all(hasattr(train_lab, part) for part in phase.parts), name


def test_cell_of_numbers_the_ab_plane_by_rows_of_a() -> None:
    ab = torch.tensor([[-99.0, -99.0], [-99.0, 99.0], [0.1, 0.1], [500.0, 500.0]]) / 110
    assert cell_of(ab.T.reshape(1, 2, 1, 4)).flatten().tolist() == [0, 15, 8 * 16 + 8, 255]


def test_rarity_weighs_rare_colors_more_and_has_mean_one() -> None:
    cells = torch.tensor([7] * 90_000 + [9] * 10_000)
    weights = Rarity()(cells)
    assert weights[-1] > weights[0] > 0
    rarity = Rarity()
    for _ in range(200):
        weights = rarity(cells)  # the uniform start loses its say
    assert weights.mean().item() == pytest.approx(1, abs=0.01)


def test_ab_histogram_counts_every_pixel_and_holds_the_rest_at_its_border() -> None:
    ab = torch.tensor([[0.0, -120.0, 99.9], [0.0, 0.0, 120.0]]).reshape(1, 2, 1, 3)
    histogram = ab_histogram(ab).reshape(32, 32)
    assert histogram.sum() == 3
    assert histogram[16, 16] == histogram[0, 16] == histogram[31, 31] == 1


def test_gain_at_share_interpolates_and_does_not_extrapolate_upwards() -> None:
    assert gain_at_share([0.4, 0.8], [1.0, 0.0], 0.7) == pytest.approx(0.25)
    assert math.isnan(gain_at_share([0.4, 0.6], [1.0, 0.0], 0.7))


def test_score_of_gray_and_of_one_color(tmp_path: Path) -> None:
    images = [tmp_path / f"{name}.png" for name in ("astronaut", "coffee")]
    for path in images:
        write_png(path, load_photo(path.stem))
    gray, red = (score(Constant(*ab), 64, images, torch.device("cpu")) for ab in ((0.0, 0.0), (0.2, 0.1)))
    assert gray["psnr_gain"] == pytest.approx(0, abs=0.05) and gray["nearly_gray"] == 1
    assert gray["colorfulness_share"] < 0.02 and gray["gain_at_70"] != gray["gain_at_70"]
    assert red["nearly_gray"] == 0 and red["colorfulness_share"] > gray["colorfulness_share"]
    assert 0 < red["histogram_distance"] <= 1 and red["rec_601_gain"] == pytest.approx(red["psnr_gain"])


def test_table_averages_over_seeds_and_keeps_the_order_of_the_variants() -> None:
    scores = dict.fromkeys(("ssim", "ms_ssim", "colorfulness", "colorfulness_share", "histogram_distance"), 0.5)
    scores |= dict.fromkeys(("nearly_gray", "rec_601_gain", "gain_at_70", "psnr_gain"), 0.5)
    runs = [
        {"variant": "hinge", "seed": 0, "psnr": 20.0, **scores},
        {"variant": "base", "seed": 0, "psnr": 21.0, **scores},
        {"variant": "base", "seed": 1, "psnr": 22.0, **scores},
    ]
    lines = table(runs).splitlines()
    assert lines[2].startswith("| base | 2 |") and "21.50" in lines[2]
    assert lines[3].startswith("| hinge | 1 |") and "20.00" in lines[3]
