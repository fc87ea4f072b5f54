"""Score the colors of a generator: the report's measures, and those of a whole set's colors.

    python -m benchmarks.color_scores --images-dir PHOTOGRAPHS --checkpoint weights/G_default.pt

Reads photographs and a G_*.pt file; prints a line per measure. `benchmarks.ablate` and `benchmarks.race` score by it.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.measure import make_main
from calculate_metrics import grayscale, predict_at, stack
from config import CORES, DEVICE, MetricsConfig
from encoder_lab import EfficientNetLite
from utils import run
from utils.coloring.exported import open_generator
from utils.files import list_images
from utils.images import ImageError, read_rgb, resize
from utils.lab import denormalize_ab, fit_gamut, lab_to_rgb, lightness, normalize_l, rgb_to_lab, to_uint8
from utils.report import metrics
from utils.report.fid import FID
from utils.training.checkpoints import working_size
from utils.training.encoder_weights import load_encoder_weights
from utils.visualization import GROUND_TRUTH

# CIELAB units: a truth of a lower mean chroma is left out. It says nothing of color, and a faint tint on it costs
# 10 dB, so that a few such images would decide the mean.
MIN_CHROMA = 5.0
GRAY_CHROMA = 4.0  # CIELAB units: a result of a lower mean chroma looks gray
BINS = 32  # of a and of b, over [-100, 100]
FACTORS = (1.0, 0.5, 0.7, 0.85, 1.2, 1.5, 1.9, 2.4)  # on ab
SHARE = 0.7
REC_601 = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)  # luma of video, and of most software


@dataclass(frozen=True)
class ColorScoresConfig:
    """Score the colors of a generator."""

    images_dir: Path  # Photographs: a folder, or a text file with one path a line.
    checkpoint: Path  # G_*.pt file, or the .onnx file that export_lab.py made of it.
    device: str = DEVICE  # cuda, mps or cpu.


def load_square(path: Path) -> np.ndarray | None:
    """Read an image as (S, S, 3), uint8, as `calculate_metrics.py` does; None for one that cannot be read."""
    try:
        return resize(read_rgb(path), MetricsConfig.img_size, MetricsConfig.img_size)
    except ImageError as error:
        run.say(f"skipped {path}: {error}")
        return None


def mean_chroma(ab: Tensor) -> Tensor:
    """Average the chroma of ab (B, 2, H, W) over each image, (B,)."""
    return ab.square().sum(dim=1).sqrt().mean(dim=(1, 2))


def ab_histogram(ab: Tensor) -> Tensor:
    """Count the pixels of ab (B, 2, H, W), in CIELAB units, in BINS x BINS bins."""
    bins = ((ab + 100) * (BINS / 200)).long().clamp(0, BINS - 1)
    return torch.bincount((bins[:, 0] * BINS + bins[:, 1]).flatten(), minlength=BINS * BINS).double()


def gain_at_share(shares: Sequence[float], gains: Sequence[float], share: float = SHARE) -> float:
    """Interpolate the PSNR gain at a share of the truth's colorfulness; NaN where none of the points has as much."""
    order = np.argsort(shares)
    return float(np.interp(share, np.array(shares)[order], np.array(gains)[order], right=float("nan")))


class LiteFeatures(nn.Module):
    """Channel means of EfficientNet-Lite2's last features, for a Frechet distance that sees what PSNR does not.

    It stands in where Inception's weights cannot be had. Never call the distance FID.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = EfficientNetLite("lite2", in_channels=3).eval()
        load_encoder_weights(self.encoder, "imagenet")
        self.num_features = self.encoder.channels[-1]

    def forward(self, images: Tensor) -> Tensor:
        """Map uint8 RGB (B, 3, H, W), sides multiples of 32, to features (B, num_features)."""
        return self.encoder(images / 127.5 - 1)[-1].mean(dim=(2, 3))  # the classifier sees RGB in [-1, 1]


@torch.inference_mode()
def score(generator: nn.Module, size: int, images: Sequence[Path], device: torch.device) -> dict[str, float]:
    """Score a generator by the protocol of `calculate_metrics.py`, on the images that have color.

    Args:
        generator: maps L (B, 1, S, S) to ab (B, 2, S, S), both in [-1, 1]; on `device`, in eval mode.
        size: S, at which it works.
        images: the truth; a UserError says so if none of it has color.
        device: of the generator.

    Returns:
        The measures that docs/RECIPE.md explains, PSNR and its gains in dB: "psnr_gain" over the grayscale image,
        "rec_601_gain" when the network sees the gray of video instead of L, "gain_at_70" with all ab scaled to SHARE
        of the truth's colorfulness (NaN where no factor gives as much). "fd_lite2", the Frechet distance of
        `LiteFeatures` to the truth's, biased upward by few images. The counts "images" and "left_out".

    Raises:
        UserError: none of the images has color, or the encoder's ImageNet weights cannot be had.
    """
    distance = FID(LiteFeatures().to(device), "FD (EfficientNet-Lite2)", device)
    rows, left_out, histograms = [], 0, torch.zeros(2, BINS * BINS, dtype=torch.float64)

    def predict(l: Tensor) -> Tensor:
        return denormalize_ab(predict_at(generator, size, normalize_l(l)).float())

    def color(l: Tensor, ab: Tensor) -> tuple[Tensor, Tensor]:
        lab = fit_gamut(torch.cat([l, ab], dim=1))
        return lab[:, 1:], to_uint8(lab_to_rgb(lab)).float() / 255

    squares = (square for square in run.map_in_threads(load_square, images, CORES) if square is not None)
    while batch := list(islice(squares, MetricsConfig.batch_size)):
        truth, l = stack(batch, device).float() / 255, torch.stack(list(map(lightness, batch))).to(device)
        colored = mean_chroma(rgb_to_lab(truth)[:, 1:]) >= MIN_CHROMA
        left_out += int((~colored).sum())
        if not colored.any():
            continue
        truth, l = truth[colored], l[colored]  # (B, 3, S, S) and (B, 1, S, S)
        video_l = rgb_to_lab((truth * REC_601.to(device)).sum(dim=1, keepdim=True).expand_as(truth))[:, :1]
        from_video, predicted = color(l, predict(video_l))[1], predict(l)
        ab, fake = color(l, predicted)  # (B, 2, S, S) and (B, 3, S, S)
        row = [metrics.psnr(grayscale(l).float() / 255, truth), metrics.psnr(from_video, truth), mean_chroma(ab)]
        row += [metrics.colorfulness(truth), *metrics.StructuralSimilarity(truth).score(fake)]
        for other in (color(l, factor * predicted)[1] for factor in FACTORS):
            row += [metrics.psnr(other, truth), metrics.colorfulness(other)]
        rows.append(torch.stack(row).cpu())
        distance.add(GROUND_TRUTH, to_uint8(truth))
        distance.add("colored", to_uint8(fake))
        histograms += torch.stack([ab_histogram(rgb_to_lab(truth)[:, 1:]), ab_histogram(ab)]).cpu()
    if not rows:
        raise run.UserError(f"none of the {len(images)} images has a mean chroma of {MIN_CHROMA:g}")
    table = torch.cat(rows, dim=1)  # (6 + 2 * factors, N)
    gray, from_video, _, true_color, ssim, ms_ssim, *scaled = table.mean(dim=1).tolist()
    psnrs, colors = scaled[::2], scaled[1::2]
    gains, shares = [psnr - gray for psnr in psnrs], [color / true_color for color in colors]
    real, fake = histograms / histograms.sum(dim=1, keepdim=True)
    return {
        "images": table.shape[1],
        "left_out": left_out,
        "psnr": psnrs[0],
        "psnr_gain": gains[0],
        "ssim": ssim,
        "ms_ssim": ms_ssim,
        "colorfulness": colors[0],
        "colorfulness_share": shares[0],
        "histogram_distance": (real - fake).abs().sum().item() / 2,
        "fd_lite2": distance.score("colored"),
        "nearly_gray": (table[2] < GRAY_CHROMA).float().mean().item(),
        "rec_601_gain": from_video - gray,
        "gain_at_70": gain_at_share(shares, gains),
    }


def print_scores(cfg: ColorScoresConfig) -> None:
    """Score a checkpoint and print a line per measure."""
    device = run.set_up_device(cfg.device)
    generator, info = open_generator(cfg.checkpoint, device)
    scores = score(generator, working_size(info), list_images(cfg.images_dir), device)
    run.say("\n".join(f"{name} {value:.4g}" for name, value in scores.items()))


main = make_main(ColorScoresConfig, print_scores)

if __name__ == "__main__":
    sys.exit(main())
