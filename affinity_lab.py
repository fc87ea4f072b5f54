"""Places that look alike to the network: their colors are evened out, and hints spread over them.

Two places are alike if they are near each other and equally light, and if the decoder's features agree, as in An and
Pellacini 2008, "AppProp: All-Pairs Appearance-Space Edit Propagation". Nothing is trained for it.

- `even_out` averages a prediction over such places, as the non-local means of Buades, Coll and Morel 2005 do, so that
  a thing of one color does not get patches; `lift_pale` then gives pale pictures more color.
- `follow_hints` spreads the difference between a color hint and the prediction by kriging, as Gaussian process
  regression is called for images and maps (Rasmussen and Williams 2006, "Gaussian Processes for Machine Learning",
  eq. 2.25).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# Distances at which two places are alike by exp(-1/2), if they agree in all else (docs/EXPERIMENTS.md)
FEATURE_REACH = 1.0  # root mean square over the channels, in standard deviations
LIGHTNESS_REACH = 0.5  # of L in [-1, 1]
PLACE_REACH = 0.2  # of the shorter side
NOISE = 0.03  # variance of a hint, relative to the differences: neighbors that disagree are averaged
MOST_HINTED = 2048  # cells of 4 x 4 pixels that `spread` takes into account: its cost grows with their third power
MOST_PAIRS = 2**22  # of places compared at a time: 17 MB each of their products
EVEN_REACH = 0.5  # of these distances, for `even_out`
PALE, STRONG = 0.15, 0.4  # mean chroma of a picture, and chroma of a pixel, of ab in [-1, 1]


def describe(l: Tensor, features: Tensor, side: int, factor: int) -> Tensor:
    """Describe each place so that the distance between two tells how alike they are, in reaches.

    Args:
        l: (B, 1, H, W), in [-1, 1].
        features: (B, C, H/4, W/4).
        side: pixels of the photograph's shorter side.
        factor: of l's size to that of the result.

    Returns:
        (B, C + 3, H/factor, W/factor).
    """
    features = features - features.mean(dim=(2, 3), keepdim=True)
    deviation = features.square().mean(dim=(2, 3), keepdim=True).sqrt()  # `torch.std_mean` takes five times as long
    features = features / ((deviation + 1e-3) * features.shape[1] ** 0.5 * FEATURE_REACH)
    features = F.interpolate(features, scale_factor=4 / factor, mode="bilinear")  # (B, C, H/factor, W/factor)
    light = F.avg_pool2d(l, factor) / LIGHTNESS_REACH
    step = factor / PLACE_REACH / torch.full((), side, device=l.device)  # a tensor: ONNX knows no symbolic number
    rows, columns = (torch.arange(n, device=l.device) * step for n in light.shape[-2:])
    places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))  # (2, H/factor, W/factor)
    return torch.cat([features, light, places.expand(len(l), -1, -1, -1)], dim=1)


def even_out(ab: Tensor, l: Tensor, features: Tensor) -> Tensor:
    """Replace the average color of each cell of 8 x 8 pixels by that of the cells that look alike.

    Args:
        ab: (B, 2, H, W), the prediction, in [-1, 1]; the sides are multiples of 8.
        l: (B, 1, H, W), in [-1, 1].
        features: (B, C, H/4, W/4).

    Returns:
        (B, 2, H, W), in [-1, 1].
    """
    with torch.autocast(l.device.type, enabled=False):
        looks = describe(l.float(), features.float(), min(l.shape[-2:]), 8).flatten(2).mT / EVEN_REACH  # (B, N, E)
        cells = F.avg_pool2d(ab.float(), 8)  # (B, 2, H/8, W/8)
        square = looks.square().sum(dim=2, keepdim=True) / -2
        one = torch.ones_like(square)
        # exp(-|x - y|^2 / 2) = exp(x y - x^2 / 2 - y^2 / 2), without attention's search for the largest
        left, right = torch.cat([looks, square, one], dim=2), torch.cat([looks, one, square], dim=2)  # (B, N, E + 2)
        counted = torch.cat([cells.flatten(2), one.mT], dim=1)  # (B, 3, N)
        pieces: Sequence[Tensor] = (right,)
        if not torch.compiler.is_compiling():  # a traced program is for any size
            pieces = right.split(max(1, MOST_PAIRS // right.shape[1]), dim=1)
        sums = [counted @ (left @ piece.mT).exp_() for piece in pieces]
        total = torch.cat(sums, dim=2)  # (B, 3, N): sums of ab and of likeness
        change = (total[:, :2] / total[:, 2:]).reshape(cells.shape) - cells
        return (ab + F.interpolate(change, scale_factor=8, mode="bilinear")).clamp(-1, 1)


def lift_pale(ab: Tensor, exponent: float) -> Tensor:
    """Give pale pictures more color, and strong colors more than weak ones.

    One factor for all pictures would leave those of which the network is unsure gray, or make the others gaudy. The
    picture's factor fades where there is much color already, of which the network is sure: there it is right more
    often (docs/EXPERIMENTS.md).

    Args:
        ab: (B, 2, H, W), in [-1, 1].
        exponent: of the factors, in [0, 1); 0 changes nothing.

    Returns:
        (B, 2, H, W), in [-1, 1].
    """
    chroma = ab.square().sum(dim=1, keepdim=True).sqrt()  # (B, 1, H, W)
    pale = (PALE / chroma.mean(dim=(2, 3), keepdim=True)).clamp(max=20)  # (B, 1, 1, 1)
    factor = pale ** (1 / (1 + (chroma / STRONG) ** 2)) * (2 * chroma / STRONG) ** (1 / 3)
    return (ab * factor**exponent).clamp(-1, 1)


def follow_hints(ab: Tensor, hints: Tensor, l: Tensor, features: Tensor) -> Tensor:
    """Move predicted colors toward hints, most at the hints and places like them.

    Args:
        ab: (B, 2, H, W), the prediction, in [-1, 1], or multiplied by a saturation.
        hints: (B, 3, H, W), ab in [-1, 1] where the third plane is 1, and 0 elsewhere.
        l: (B, 1, H, W), in [-1, 1].
        features: (B, C, H'/4, W'/4), of l padded to (H', W') at its right and lower edges.

    Returns:
        (B, 2, H, W), in [-1, 1], or as far outside as the prediction is; a sample without hints is unchanged.
    """
    height, width = l.shape[-2:]
    padding = (0, 4 * features.shape[-1] - width, 0, 4 * features.shape[-2] - height)
    with torch.autocast(l.device.type, enabled=False):
        l = F.pad(l, padding, mode="replicate")
        looks = describe(l, features.float(), min(height, width), 2)  # (B, E, H'/2, W'/2)
        marked = F.pad(hints[:, 2:], padding)
        asked = F.pad(hints[:, :2] - ab * hints[:, 2:], padding)  # (B, 2, H', W')
        change = torch.stack([spread(*sample) for sample in zip(asked, marked, looks, strict=True)])
        change = F.interpolate(change, scale_factor=2, mode="bilinear")  # (B, 2, H', W')
    return (ab + change[..., :height, :width]).clamp(ab.clamp(max=-1), ab.clamp(min=1))


def spread(asked: Tensor, marked: Tensor, looks: Tensor) -> Tensor:
    """Estimate everywhere the difference that is known at hints.

    Args:
        asked: (2, H, W), the difference at the hints, and 0 elsewhere.
        marked: (1, H, W), 1 at the hints, and 0 elsewhere.
        looks: (E, H/2, W/2) of `describe`.

    Returns:
        (2, H/2, W/2).
    """
    share = F.avg_pool2d(marked, 4)[0]  # (H/4, W/4): cells of 4 x 4 pixels
    hinted = share > 0
    if (count := int(hinted.sum())) > MOST_HINTED:  # by the golden ratio, which falls into step with no row
        spaced = torch.arange(count, dtype=torch.float64) * 0.6180339887498949 % 1
        hinted[hinted.clone()] = (spaced < MOST_HINTED / count).to(looks.device)
    known = F.avg_pool2d(asked, 4)[:, hinted] / share[hinted]  # (2, N): the means of the hinted pixels
    cells, shares = (of_cells(planes)[..., hinted] for planes in (looks, F.avg_pool2d(marked, 2)))
    there = (cells * shares).mean(dim=(1, 2)) / share[hinted]  # (E, N)
    alike = kernel(there, there) + NOISE * torch.eye(there.shape[1], device=looks.device)
    weights = torch.linalg.solve(alike, known.T)  # (N, 2)
    pieces = looks.flatten(1).split(max(1, MOST_PAIRS // max(1, len(weights))), dim=1)
    change = torch.cat([kernel(piece, there) @ weights for piece in pieces])  # (H/2 * W/2, 2)
    return change.T.unflatten(1, looks.shape[1:])


def of_cells(planes: Tensor) -> Tensor:
    """Sort planes (C, H, W) by cells of 2 x 2 pixels: (C, 2, 2, H/2, W/2)."""
    return planes.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).permute(0, 2, 4, 1, 3)


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """Compute how alike places (E, M) and (E, N) are: (M, N), in [0, 1]."""
    # `torch.cdist` copies both sides, and takes twice as long or more
    squares = torch.addmm(a.square().sum(dim=0)[:, None], a.T, b, alpha=-2) + b.square().sum(dim=0)
    return torch.exp(squares.clamp(min=0) / -2)
