"""Follow color hints: spread what they ask for over the places that look alike to the network.

The difference between a hint and the network's own prediction is known at the hints and wanted everywhere. It is
estimated by kriging, as Gaussian process regression is called for images and maps (Rasmussen and Williams 2006,
"Gaussian Processes for Machine Learning", eq. 2.25). Two places are alike if they are near each other and equally
light, and if the decoder's features agree, as in An and Pellacini 2008, "AppProp: All-Pairs Appearance-Space Edit
Propagation". Nothing is trained for it, and without hints the prediction stays as it is.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Distances at which two places are alike by exp(-1/2), if they agree in all else (docs/RECIPE.md)
FEATURE_REACH = 1.0  # root mean square over the channels, in standard deviations
LIGHTNESS_REACH = 0.5  # of L in [-1, 1]
PLACE_REACH = 0.2  # of the shorter side
NOISE = 0.03  # variance of a hint, relative to the differences: neighbors that disagree are averaged


def follow_hints(ab: Tensor, hints: Tensor, l: Tensor, features: Tensor) -> Tensor:
    """Move predicted colors toward hints, most at the hints and places like them.

    Args:
        ab: (B, 2, H, W), the prediction, in [-1, 1].
        hints: (B, 3, H, W), ab in [-1, 1] where the third plane is 1, and 0 elsewhere.
        l: (B, 1, H, W), in [-1, 1].
        features: (B, C, H'/4, W'/4), of l padded to (H', W') at its right and lower edges.

    Returns:
        (B, 2, H, W), in [-1, 1]; a sample without hints is unchanged.
    """
    height, width = l.shape[-2:]
    padding = (0, 4 * features.shape[-1] - width, 0, 4 * features.shape[-2] - height)
    with torch.autocast(l.device.type, enabled=False):
        l = F.pad(l, padding, mode="replicate")
        looks = describe(l, features.float(), min(height, width))  # (B, E, H'/2, W'/2)
        marked = F.pad(hints[:, 2:], padding)
        asked = F.pad(hints[:, :2] - ab * hints[:, 2:], padding)  # (B, 2, H', W')
        change = torch.stack([spread(*sample) for sample in zip(asked, marked, looks, strict=True)])
        change = F.interpolate(change, scale_factor=2, mode="bilinear")  # (B, 2, H', W')
    return (ab + change[..., :height, :width]).clamp(-1, 1)


def describe(l: Tensor, features: Tensor, side: int) -> Tensor:
    """Describe each place so that the distance between two tells how alike they are, in reaches.

    Args:
        l: (B, 1, H, W), in [-1, 1].
        features: (B, C, H/4, W/4).
        side: pixels of the photograph's shorter side.

    Returns:
        (B, C + 3, H/2, W/2).
    """
    deviation, mean = torch.std_mean(features, dim=(2, 3), correction=0, keepdim=True)
    features = (features - mean) / (deviation + 1e-3) / features.shape[1] ** 0.5 / FEATURE_REACH
    features = F.interpolate(features, scale_factor=2, mode="bilinear")  # (B, C, H/2, W/2)
    light = F.avg_pool2d(l, 2) / LIGHTNESS_REACH
    rows, columns = (2 * torch.arange(n, device=l.device) / (side * PLACE_REACH) for n in light.shape[-2:])
    places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))  # (2, H/2, W/2)
    return torch.cat([features, light, places.expand(len(l), -1, -1, -1)], dim=1)


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
    known = F.avg_pool2d(asked, 4)[:, hinted] / share[hinted]  # (2, N): the means of the hinted pixels
    there = F.avg_pool2d(looks * F.avg_pool2d(marked, 2), 2)[:, hinted] / share[hinted]  # (E, N)
    alike = kernel(there, there) + NOISE * torch.eye(there.shape[1], device=looks.device)
    weights = torch.linalg.solve(alike, known.T)  # (N, 2)
    return (kernel(looks.flatten(1), there) @ weights).T.unflatten(1, looks.shape[1:])


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """Compute how alike places (E, M) and (E, N) are: (M, N), in [0, 1]."""
    return torch.exp(-torch.cdist(a.T, b.T).square() / 2)
