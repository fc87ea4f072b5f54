"""A photograph to color, generators to color it with, and what every colored picture must keep."""

from __future__ import annotations

import numpy as np
import skimage.color
import skimage.data
import torch
from torch import Tensor, nn

from models_lab import GeneratorUNet
from utils.images import Picture

CPU = torch.device("cpu")
PHOTO = skimage.data.coffee()[100:300:2, 100:401:2]  # (100, 151, 3)
PHOTO16 = PHOTO.astype(np.uint16) * 257 - PHOTO % 7
ALPHA = np.tile(np.arange(PHOTO.shape[1], dtype=np.uint8), (PHOTO.shape[0], 1))


class Wild(nn.Module):
    """Colors far outside sRGB, strongest chroma on the finest scale; remembers the shapes it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, l: Tensor) -> Tensor:
        self.shapes.append(tuple(l.shape))
        return torch.cat([torch.sin(31 * l), torch.cos(23 * l)], dim=1)


def visible_generator() -> GeneratorUNet:
    """A random generator whose colors can be seen."""
    torch.manual_seed(0)
    generator = GeneratorUNet(width=8, depth=3).eval()
    with torch.no_grad():
        generator.head.conv.weight.mul_(50)
    return generator


def assert_keeps_lightness(picture: Picture, colored: Picture) -> None:
    """The true color lies within half a level, and fit_gamut's tolerance, of each channel; L rises with each."""
    levels = np.iinfo(picture.rgb.dtype).max
    assert colored.rgb.dtype == picture.rgb.dtype and colored.rgb.shape == picture.rgb.shape
    own = skimage.color.rgb2lab(picture.rgb / levels)[:, :, 0]
    off = 0.5 / levels + 2e-4
    lowest, highest = (skimage.color.rgb2lab(colored.rgb / levels + sign * off)[:, :, 0] for sign in (-1, 1))
    assert (lowest <= own + 1e-3).all() and (own <= highest + 1e-3).all()
