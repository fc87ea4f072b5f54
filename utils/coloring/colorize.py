"""Coloring a picture at its own resolution: the network supplies ab, the picture keeps its lightness.

The network sees a small copy of the picture's L. Its ab is enlarged to the picture's size and joined with the
input's own L, at the input's own resolution (Zhang, Isola and Efros 2016, arXiv:1603.08511). Size, bit depth and
alpha stay those of the input.

`colorize` does all of it for one picture. Its steps are `prepare`, `predict_ab` and `merge`; with `batch_by_shape`
they let the network run on several pictures together while threads read and write others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.coloring.hints import Hint, mark
from utils.coloring.recolor import fit_levels, recolor
from utils.images import MAX_ASPECT, Picture, resize
from utils.lab import denormalize_ab, lightness, normalize_l
from utils.run import autocast

GRID = 32  # pixels: the encoder's deepest cell. A part of one would have to be padded, which costs color and time
STRIP_PIXELS = 2**16  # merged at a time: what the steps hand over stays in the cache, and there are few of them
FITTED_PIXELS = 2**16  # of colors outside sRGB, fitted to it together
PANEL_SIDE, PANEL_GAP = 1024, 8  # most pixels of a panel's longer side; white pixels between panels


def working_shape(height: int, width: int, img_size: int) -> tuple[int, int]:
    """Give the height and width that the network sees: shorter side `img_size`, both rounded to multiples of GRID.

    Smaller images are enlarged to it, as they were for training: the network knows things at that scale. The
    longer side ends at MAX_ASPECT times `img_size`, even if the shorter side is then smaller.
    """
    scale = min(img_size / min(height, width), MAX_ASPECT * img_size / max(height, width)) / GRID
    return GRID * max(1, round(height * scale)), GRID * max(1, round(width * scale))


def prepare(picture: Picture, img_size: int) -> Tensor:
    """Make what the network sees of a picture: L at the working size, (1, h, w), in [-1, 1]."""
    height, width = picture.rgb.shape[:2]
    return normalize_l(lightness(resize(picture.rgb, *working_shape(height, width, img_size))))


def cast_convolutions(generator: nn.Module, dtype: torch.dtype | None) -> None:
    """Cast the weights of convolutions to the type that `predict_ab` computes in: autocast does it every batch."""
    convolutions = [module for module in generator.modules() if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d))]
    for convolution in convolutions if dtype else []:
        convolution.to(dtype)


def predict_ab(
    generator: nn.Module,
    planes: Sequence[Tensor],
    device: torch.device,
    dtype: torch.dtype | None = None,
    hints: Sequence[Tensor | None] | None = None,
) -> list[Tensor]:
    """Run the generator in eval mode.

    Args:
        generator: maps L (B, 1, h, w) to ab (B, 2, h, w), both in [-1, 1]; on `device`. Its mode is kept.
        planes: B of L, (1, h, w), in [-1, 1], of one shape.
        device: of the generator.
        dtype: of mixed precision, or None; see `amp_dtype`.
        hints: for each of the planes None, or (3, h, w) of `hint_planes`, which only some generators take.

    Returns:
        The ab of each, (2, h, w), float32, in [-1, 1], on the CPU.
    """
    inputs = [torch.stack(list(planes))]
    if hints is not None and any(hint is not None for hint in hints):
        none = planes[0].new_zeros(3, *planes[0].shape[1:])
        inputs.append(torch.stack([none if hint is None else hint for hint in hints]))
    training = generator.training
    generator.eval()
    try:
        with torch.inference_mode(), autocast(device, dtype):
            return [*generator(*(x.to(device) for x in inputs)).float().cpu()]  # B of (2, h, w)
    finally:
        generator.train(training)


def _resize_bilinear(planes: Tensor, height: int, width: int) -> list[np.ndarray]:
    """Resize planes (2, h, w), antialiased where a side shrinks, which OpenCV cannot do but does not slow it down."""
    if height >= planes.shape[1] and width >= planes.shape[2]:
        return [cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR) for plane in planes.numpy()]
    return [*F.interpolate(planes[None], (height, width), mode="bilinear", antialias=True)[0].numpy()]


def merge(
    picture: Picture,
    ab: Tensor,
    strip_pixels: int = STRIP_PIXELS,
    out: np.ndarray | None = None,
    threads: int = 1,
) -> Picture:
    """Give a picture the predicted color and leave it its lightness; what sRGB cannot show is moved toward gray.

    Args:
        picture: the input, (H, W).
        ab: (2, h, w), in [-1, 1]; enlarged bilinearly.
        strip_pixels: pixels merged at a time, which bounds the memory; it moves the result by float rounding alone.
        out: where to put the colors, of the shape and type of the picture's; may be its own pixels.
        threads: that merge, each a part of the height.

    Returns:
        A picture of the input's size, bit depth and alpha.
    """
    height, width = picture.rgb.shape[:2]
    narrow_ab = _resize_bilinear(denormalize_ab(ab), height, min(ab.shape[2], width))  # widened strip by strip
    colored = np.empty_like(picture.rgb, order="C") if out is None else out
    rows = max(1, strip_pixels // width)
    step = rows * -(-height // (rows * threads))
    bands = [range(top, min(top + step, height), rows) for top in range(0, height, step)]
    if len(bands) == 1:
        _merge_band(picture.rgb, narrow_ab, colored, bands[0])
    else:
        with ThreadPoolExecutor(len(bands), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(lambda band: _merge_band(picture.rgb, narrow_ab, colored, band), bands))
    return Picture(colored, picture.alpha)


@torch.inference_mode()
def _merge_band(rgb: np.ndarray, narrow_ab: Sequence[np.ndarray], colored: np.ndarray, band: range) -> None:
    """Merge some rows of a picture.

    Args:
        rgb: (H, W, 3), of the input.
        narrow_ab: two planes (H, w), float32, in CIELAB units.
        colored: (H, W, 3), to be filled; may be `rgb`.
        band: the first row of each strip.
    """
    width = rgb.shape[1]
    pixels = colored.view(f"V{3 * colored.itemsize}")[:, :, 0]  # three levels in one
    outside: list[tuple[np.ndarray, np.ndarray]] = []  # indices into H * W, and L, a and b (3, M)
    for top in band:
        strip = slice(top, min(top + band.step, band.stop))
        start = max(0, min(top, strip.stop - 2))  # OpenCV is less exact where there is a single row
        strip_ab = [cv2.resize(plane[start : strip.stop], (width, strip.stop - start)) for plane in narrow_ab]
        strip_ab = [plane[top - start :] for plane in strip_ab]  # (rows, W)
        _, indices, lab = recolor(rgb[strip], strip_ab, colored[strip])
        if len(indices):
            outside.append((indices + top * width, lab))
        # Many together: each of `fit_levels`' many small steps has a price of its own.
        if outside and (strip.stop == band.stop or sum(len(found) for found, _ in outside) >= FITTED_PIXELS):
            indices, lab = (np.concatenate(parts, axis=-1) for parts in zip(*outside, strict=True))
            pixels.flat[indices] = fit_levels(lab, rgb.dtype).view(pixels.dtype)
            outside = []


def batch_by_shape(planes: Sequence[Tensor], batch_size: int) -> Iterator[list[int]]:
    """Group the indices of planes (1, h, w) of one shape, `batch_size` at most."""
    groups = defaultdict(list)
    for index, plane in enumerate(planes):
        groups[plane.shape].append(index)
    for group in groups.values():
        yield from (group[start : start + batch_size] for start in range(0, len(group), batch_size))


def colorize(generator: nn.Module, picture: Picture, img_size: int, device: torch.device) -> Picture:
    """Color one picture.

    Args:
        generator: maps L (B, 1, h, w) to ab (B, 2, h, w), both in [-1, 1]; on `device`. Its mode is kept.
        picture: as `read_picture` gives it, of any shape.
        img_size: shorter side at which the network works, in pixels; see `working_size`.
        device: of the generator.

    Returns:
        A picture of the input's size, bit depth and alpha.
    """
    return merge(picture, predict_ab(generator, [prepare(picture, img_size)], device)[0])


def grayscale(picture: Picture) -> Picture:
    """Give a picture without color: its L, with ab = 0, and its alpha."""
    gray = merge(picture, torch.zeros(2, 1, 1)).rgb[:, :, 1:2]
    return Picture(gray.repeat(3, axis=2), picture.alpha)


def comparison(picture: Picture, colored: Picture, true_color: bool = True, hints: Sequence[Hint] = ()) -> np.ndarray:
    """Put input | output | truth (where the input has `true_color`) in a row, (H, W, 3) uint8.

    The input is shown as its L in gray, with its hints.
    """
    height, width = picture.rgb.shape[:2]
    scale = min(1.0, PANEL_SIDE / max(height, width))
    shape = max(1, round(height * scale)), max(1, round(width * scale))
    truth, output = resize(picture.rgb, *shape), resize(colored.rgb, *shape)
    gray = mark(grayscale(Picture(truth, None)).rgb, hints, (height, width))
    gap = np.full((shape[0], PANEL_GAP, 3), np.iinfo(truth.dtype).max, truth.dtype)
    row = np.hstack([gray, gap, output, *([gap, truth] if true_color and picture.has_color else [])])
    return row if row.dtype == np.uint8 else np.round(row / 257.0).astype(np.uint8)
