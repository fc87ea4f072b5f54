"""How recipes are compared: the variants, and the scores of a set's colors."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.color import lab2rgb
from torch import Tensor, nn

import train_lab
from benchmarks.ablate import AblateConfig, configure, table
from benchmarks.color_scores import ab_histogram, gain_at_share, score
from benchmarks.hint_curve import COUNTS, add_hints, curve
from benchmarks.measure import parse
from benchmarks.training import TEXTBOOK, count_flops, our_steps
from benchmarks.variants import PLACES, VARIANTS
from config import TrainConfig
from models_lab import GeneratorUNet
from utils.data.sample_set import load_photo
from utils.images import write_png
from utils.run import UserError
from utils.training import checkpoints
from utils.training.ranges import check_ranges


class Constant(nn.Module):
    """Predict the same color everywhere."""

    def __init__(self, a: float, b: float):
        super().__init__()
        self.ab = torch.tensor([a, b]).view(1, 2, 1, 1)

    def forward(self, l: Tensor) -> Tensor:
        return self.ab.expand(len(l), 2, *l.shape[-2:])


def test_variants_change_what_train_lab_has() -> None:
    for name, phases in VARIANTS.items():
        assert sum(phase.share for phase in phases) == 1, name
        for phase in phases:
            parse(TrainConfig, phase.flags)  # exits where there is no such flag
            assert all(any(hasattr(place, part) for place in PLACES) for part in phase.parts), name


def test_configure_gives_each_phase_flags_that_train_lab_takes(tmp_path: Path) -> None:
    cfg = AblateConfig(tmp_path, tmp_path)
    for phases in VARIANTS.values():
        for number, phase in enumerate(phases):
            init = tmp_path / "G_epoch_001.pt" if number else None
            train_cfg = configure(cfg, phase, 0, tmp_path, init)
            check_ranges(train_cfg)
            assert train_cfg.init_checkpoint == init and train_cfg.max_steps == 1000 * phase.share


def test_replaced_changes_the_parts_and_restores_them() -> None:
    with VARIANTS["attention"][0].replaced():
        (attention,) = checkpoints.GENERATORS
        assert train_lab.GeneratorUNet is attention is not GeneratorUNet
        assert attention(4, 5, "batch", "pixelshuffle").eval()(torch.zeros(1, 1, 32, 32)).shape == (1, 2, 32, 32)
    assert train_lab.GeneratorUNet is GeneratorUNet and GeneratorUNet in checkpoints.GENERATORS


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
    assert red["fd_lite2"] > 0
    assert gray["images"] == 2 and gray["left_out"] == 0


def test_score_leaves_out_images_of_little_chroma(tmp_path: Path) -> None:
    photo = load_photo("coffee").astype(np.float32)
    gray = photo.mean(axis=2, keepdims=True)
    images = [tmp_path / f"{name}.png" for name in ("colored", "pale", "gray")]
    for path, saturation in zip(images, (1.0, 0.05, 0.0), strict=True):
        write_png(path, (gray + saturation * (photo - gray)).astype(np.uint8))
    network = Constant(0.0, 0.0)
    scores = score(network, 64, images, torch.device("cpu"))
    assert scores["images"] == 1 and scores["left_out"] == 2
    alone = score(network, 64, images[:1], torch.device("cpu"))
    assert scores == pytest.approx({**alone, "left_out": 2}, nan_ok=True)
    with pytest.raises(UserError, match="none of the 2 images has a mean chroma of 5"):
        score(network, 64, images[1:], torch.device("cpu"))


def test_table_averages_over_seeds_and_keeps_the_order_of_the_variants() -> None:
    scores = dict.fromkeys(("ssim", "ms_ssim", "colorfulness", "colorfulness_share", "histogram_distance"), 0.5)
    scores |= dict.fromkeys(("nearly_gray", "fd_lite2", "rec_601_gain", "gain_at_70", "psnr_gain"), 0.5)
    runs = [
        {"variant": "hinge", "seed": 0, "psnr": 20.0, **scores},
        {"variant": "base", "seed": 0, "psnr": 21.0, **scores},
        {"variant": "base", "seed": 1, "psnr": 22.0, **scores},
    ]
    lines = table(runs).splitlines()
    assert lines[2].startswith("| base | 2 |") and "21.50" in lines[2]
    assert lines[3].startswith("| hinge | 1 |") and "20.00" in lines[3]


def test_add_hints_holds_the_mean_of_the_truth_around_each_place() -> None:
    truth = torch.arange(100.0).view(1, 1, 10, 10).expand(-1, 2, -1, -1) / 100
    hints = torch.zeros(1, 3, 10, 10)
    add_hints(hints, truth, torch.tensor([[[0.55, 0.45], [0.0, 0.99]]]))
    assert torch.allclose(hints[0, :2, 3:8, 2:7], torch.tensor(0.54))  # of rows 3 to 7 and columns 2 to 6
    assert torch.allclose(hints[0, :2, :3, 7:], torch.tensor(0.18))  # of rows 0 to 2 and columns 7 to 9
    assert hints[0, 2].sum() == 25 + 9


def test_curve_gains_nothing_from_no_hint_and_much_from_one_where_all_has_one_color(tmp_path: Path) -> None:
    class Flat(nn.Module):
        """Paint everything in the mean color of the hints."""

        def forward(self, l: Tensor, hints: Tensor) -> Tensor:
            mean = hints[:, :2].sum((2, 3)) / hints[:, 2:].sum((2, 3)).clamp(min=1)
            return mean[..., None, None].expand(-1, -1, *l.shape[2:])

    lab = np.stack(np.broadcast_arrays(np.linspace(40, 70, 64)[:, None], 10, np.full((64, 64), 25)), axis=2)
    write_png(tmp_path / "a.png", np.round(lab2rgb(lab) * 255).astype(np.uint8))
    scores = curve(Flat(), 32, [tmp_path / "a.png"], torch.device("cpu"), seed=0)
    assert len(scores) == len(COUNTS) and scores[0] == pytest.approx((0, 0), abs=0.02)
    assert all(gain > 20 and share == pytest.approx(1, abs=0.05) for gain, share in scores[1:])


def test_our_steps_train_the_textbooks_networks(sample_coco: Path, tmp_path: Path) -> None:
    flags = f"{TEXTBOOK} --img-size 64 --load-size 72 --batch-size 2 --max-steps 4 --val-fraction 0.05 --device cpu"
    flags += " --cache-dir none --images-dir"
    cfg = parse(TrainConfig, flags, sample_coco / "train2017", "--output-dir", tmp_path / "run")
    assert our_steps(cfg) > 0


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(8, 6, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.ConvTranspose2d(8, 6, 4, 2, 1)]
)
def test_count_flops_a_layer_are_three_times_those_of_its_result(layer: nn.Conv2d | nn.ConvTranspose2d) -> None:
    x = torch.rand(2, 8, 16, 12, requires_grad=True)
    places = x if layer.transposed else layer(x)
    once = 2 * places[:, 0].numel() * layer.weight.numel()  # a multiplication and an addition for each weight
    assert count_flops(lambda: layer(x).sum().backward()) == 3 * once  # and for the gradients of both
