"""Score a generator with hints: how far random ones with the true color bring it to the truth.

    python -m benchmarks.hint_curve --images-dir PHOTOGRAPHS --checkpoint weights/G_default.pt

Reads photographs and a G_*.pt file; prints a Markdown table. The protocol is that of `benchmarks.color_scores`; the
hints are squares of the command line's default radius at the working size, at random places that differ from image to
image and grow from row to row: each row has the hints of the one before.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.color_scores import MIN_CHROMA, load_square, mean_chroma
from benchmarks.measure import make_main, markdown
from calculate_metrics import grayscale, predict_at, stack
from config import CORES, DEVICE, MetricsConfig
from utils import run
from utils.coloring.exported import open_generator
from utils.coloring.hints import DEFAULT_RADIUS, square, takes_hints
from utils.files import list_images
from utils.images import resize
from utils.lab import (
    denormalize_ab,
    fit_gamut,
    lab_to_rgb,
    lightness,
    normalize_ab,
    normalize_l,
    rgb_to_lab,
    to_uint8,
)
from utils.report import metrics
from utils.training.checkpoints import working_size

COUNTS = (0, 1, 3, 10, 30, 100)


@dataclass(frozen=True)
class HintCurveConfig:
    """Score a generator with random hints of the true color."""

    images_dir: Path  # Photographs: a folder, or a text file with one path a line.
    checkpoint: Path  # G_*.pt file of a generator that takes hints.
    seed: int = 0  # Of the places.
    device: str = DEVICE  # cuda, mps or cpu.


def add_hints(hints: Tensor, real_ab: Tensor, places: Tensor) -> None:
    """Add hints with the mean of the truth around places.

    Args:
        hints: (B, 3, S, S), as the generator takes them; changed.
        real_ab: (B, 2, S, S), in [-1, 1].
        places: (B, N, 2), rows and columns in [0, 1).
    """
    for planes, truth, some in zip(hints, real_ab, places.tolist(), strict=True):
        for y, x in some:
            rows, columns = square(int(y * truth.shape[1]), int(x * truth.shape[2]), DEFAULT_RADIUS)
            planes[:2, rows, columns] = truth[:, rows, columns].mean(dim=(1, 2), keepdim=True)
            planes[2, rows, columns] = 1


@torch.inference_mode()
def curve(
    generator: nn.Module, size: int, images: Sequence[Path], device: torch.device, seed: int
) -> list[tuple[float, float]]:
    """Score a generator with each of COUNTS hints, on the images that have color.

    Args:
        generator: maps L (B, 1, S, S) and hints (B, 3, S, S) to ab; on `device`, in eval mode.
        size: S, at which it works.
        images: the truth; a UserError says so if none of it has color.
        device: of the generator.
        seed: of the places.

    Returns:
        The mean PSNR gain over the grayscale image, in dB, and the share of the truth's colorfulness, for each count.
    """
    random = torch.Generator().manual_seed(seed)
    rows = []
    squares = (square for square in run.map_in_threads(load_square, images, CORES) if square is not None)
    while batch := list(islice(squares, MetricsConfig.batch_size)):
        places = torch.rand(len(batch), max(COUNTS), 2, generator=random)
        truth, l = stack(batch, device).float() / 255, torch.stack(list(map(lightness, batch))).to(device)
        colored = mean_chroma(rgb_to_lab(truth)[:, 1:]) >= MIN_CHROMA
        small = stack([resize(rgb, size, size) for rgb in batch], device).float() / 255
        real_ab = normalize_ab(rgb_to_lab(small)[:, 1:])  # (B, 2, S, S)
        hints = torch.zeros(len(batch), 3, size, size, device=device)
        row = [metrics.psnr(grayscale(l).float() / 255, truth), metrics.colorfulness(truth)]
        for earlier, count in zip((0, *COUNTS), COUNTS, strict=False):
            add_hints(hints, real_ab, places[:, earlier:count])
            ab = predict_at(lambda seen: generator(seen, hints), size, normalize_l(l))  # noqa: B023 - called at once
            fake = lab_to_rgb(fit_gamut(torch.cat([l, denormalize_ab(ab.float())], dim=1)))
            fake = to_uint8(fake).float() / 255
            row += [metrics.psnr(fake, truth), metrics.colorfulness(fake)]
        rows.append(torch.stack(row)[:, colored].cpu())
    table = torch.cat(rows, dim=1)  # (2 + 2 * counts, N)
    if not table.shape[1]:
        raise run.UserError(f"none of the {len(images)} images has a mean chroma of {MIN_CHROMA:g}")
    gray, true_color, *scores = table.mean(dim=1).tolist()
    return [(psnr - gray, color / true_color) for psnr, color in zip(scores[::2], scores[1::2], strict=True)]


def print_curve(cfg: HintCurveConfig) -> None:
    """Score a checkpoint and print the table."""
    device = run.set_up_device(cfg.device)
    generator, info = open_generator(cfg.checkpoint, device)
    if not takes_hints(generator):
        raise run.UserError(f"{cfg.checkpoint}: takes no hints; name a G_*.pt file")
    scores = curve(generator, working_size(info), list_images(cfg.images_dir), device, cfg.seed)
    cells = [
        [f"{count}", f"{gain:+.2f}", f"{share:.2f}"] for count, (gain, share) in zip(COUNTS, scores, strict=True)
    ]
    run.say(markdown(["hints", "PSNR over gray, dB", "share of the truth's colorfulness"], cells))


main = make_main(HintCurveConfig, print_curve)

if __name__ == "__main__":
    sys.exit(main())
