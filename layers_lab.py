"""The layers of the networks in `models_lab.py`.

The decoder doubles its resolution by sub-pixel convolution (Shi et al. 2016, arXiv:1609.05158) with ICNR weights
(Aitken et al. 2017, arXiv:1707.02937), or by resize-convolution (Odena et al. 2016), because transposed convolutions
leave a checkerboard.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def norm_layer(norm: str, channels: int) -> nn.Module:
    """Make a normalization layer with learned scale and shift.

    Args:
        norm: "batch", "instance" or "group".
        channels: of its input.

    Raises:
        ValueError: the name is unknown.
    """
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "instance":
        return nn.InstanceNorm2d(channels, affine=True)
    if norm == "group":
        return nn.GroupNorm(math.gcd(channels, max(1, channels // 16)), channels)
    raise ValueError(f"norm {norm!r}: give batch, instance or group")


def init_weights(module: nn.Module) -> None:
    """Draw convolution weights from N(0, 0.02), as the paper does (section 6.2), and set biases to zero."""
    if isinstance(module, nn.Conv2d) and not module.weight.is_meta:  # without memory there is nothing to draw
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class Down(nn.Module):
    """Halve the resolution: 4x4 convolution of stride 2, normalization, LeakyReLU."""

    def __init__(self, in_channels: int, out_channels: int, norm: str | None):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 4, stride=2, padding=1, bias=norm is None)
        self.norm = nn.Identity() if norm is None else norm_layer(norm, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.norm(self.conv(x)), 0.2)  # (B, out, H/2, W/2)


class UpSample(nn.Module):
    """Double the resolution without a checkerboard, by pixel-shuffle or resize-convolution."""

    def __init__(self, in_channels: int, out_channels: int, upsample: str, kernel_size: int = 1):
        super().__init__()
        if upsample not in ("pixelshuffle", "resize"):
            raise ValueError(f"upsample {upsample!r}: give pixelshuffle or resize")
        self.shuffle = upsample == "pixelshuffle"
        conv_channels = out_channels * 4 if self.shuffle else out_channels
        self.conv = nn.Conv2d(in_channels, conv_channels, kernel_size, padding=kernel_size // 2)

    def init_icnr(self) -> None:
        """Give the four sub-pixels of each channel the same weights: nearest-neighbor up-sampling at the start."""
        if self.shuffle:
            with torch.no_grad():
                self.conv.weight.copy_(self.conv.weight[::4].repeat_interleave(4, dim=0))

    def forward(self, x: Tensor) -> Tensor:
        if self.shuffle:
            return F.pixel_shuffle(self.conv(x), 2)  # (B, out, 2H, 2W)
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))  # (B, out, 2H, 2W)


class Up(nn.Module):
    """Double the resolution, join the skip connection, 3x3 convolution, normalization, ReLU."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int, norm: str, upsample: str):
        super().__init__()
        self.up = UpSample(in_channels, out_channels // 2, upsample)
        self.conv = nn.Conv2d(out_channels // 2 + skip_channels, out_channels, 3, padding=1, bias=False)
        self.norm = norm_layer(norm, out_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = torch.cat([self.up(x), skip], dim=1)  # (B, out/2 + skip, 2H, 2W)
        return F.relu(self.norm(self.conv(x)), inplace=True)  # (B, out, 2H, 2W)


class SelfAttention(nn.Module):
    """Multi-head attention over all places, added to its input; it starts as the identity.

    Zhang et al. 2018, "Self-Attention Generative Adversarial Networks", arXiv:1805.08318.
    """

    def __init__(self, channels: int, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.norm = norm_layer("group", channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(x)).flatten(2).unflatten(1, (3, self.heads, -1))  # (B, 3, heads, C/heads, H W)
        q, k, v = qkv.transpose(-1, -2).unbind(1)  # (B, heads, H W, C/heads)
        y = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(x.shape)
        return x + self.out(y)
