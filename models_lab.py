"""The networks: two U-Nets that predict ab from L, and a PatchGAN that judges (L, ab).

Isola, Zhu, Zhou and Efros, "Image-to-Image Translation with Conditional Adversarial Networks", 2017,
arXiv:1611.07004.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from affinity_lab import even_out, follow_hints, lift_pale
from encoder_lab import EfficientNetLite
from layers_lab import Down, SelfAttention, Up, UpSample, init_weights, norm_layer


def pad_to_multiple(l: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column of (B, 1, H, W) until H and W are multiples."""
    height, width = l.shape[-2:]
    return F.pad(l, (0, -width % multiple, 0, -height % multiple), mode="replicate")


class GeneratorUNet(nn.Module):
    """Predict ab from L.

    Args:
        width: channels of the first level; they double down to 8 times this.
        depth: halvings between the input and the bottleneck.
        norm: "batch", "instance" or "group".
        upsample: "pixelshuffle" or "resize".

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(self, width: int = 64, depth: int = 6, norm: str = "batch", upsample: str = "pixelshuffle"):
        super().__init__()
        if width < 2 or width % 2 or depth < 2:
            raise ValueError(f"width {width}, depth {depth}: the width must be even and the depth at least 2")
        self.architecture = {"width": width, "depth": depth, "norm": norm, "upsample": upsample}
        channels = [width * min(2**level, 8) for level in range(depth)]
        # No norm on the first level (it would hide the image's own lightness), nor on the bottleneck, which may be
        # a single pixel wide: instance norm would erase it.
        norms = [None, *[norm] * (depth - 2), None]
        self.downs = nn.ModuleList(
            Down(i, o, n) for i, o, n in zip([1, *channels[:-1]], channels, norms, strict=True)
        )
        self.ups = nn.ModuleList(
            Up(i, o, o, norm, upsample) for i, o in zip(channels[:0:-1], channels[-2::-1], strict=True)
        )
        self.head = UpSample(width, 2, upsample, kernel_size=3)
        self.apply(init_weights)
        for module in self.modules():
            if isinstance(module, UpSample):
                module.init_icnr()

    def predict(self, l: Tensor) -> tuple[Tensor, Tensor]:
        """Predict color from lightness (B, 1, H, W) in [-1, 1]; any H and W.

        Returns:
            ab (B, 2, H, W), in [-1, 1], and the features that `follow_hints` takes.
        """
        height, width = l.shape[-2:]
        x = pad_to_multiple(l, 2 ** len(self.downs))  # (B, 1, H', W')
        skips = []
        for down in self.downs:
            x = down(x)
            skips.append(x)  # (B, C_i, H'/2^i, W'/2^i)
        skips.pop()
        for up in self.ups:
            features = x
            x = up(x, skips.pop())  # (B, C_i, H'/2^i, W'/2^i)
        return torch.tanh(self.head(x))[..., :height, :width], features

    def forward(self, l: Tensor, hints: Tensor | None = None) -> Tensor:
        """Predict color, and follow hints if there are any.

        Args:
            l: (B, 1, H, W), lightness in [-1, 1]; any H and W.
            hints: (B, 3, H, W), ab in [-1, 1] where the third plane is 1, and 0 elsewhere.

        Returns:
            (B, 2, H, W), ab in [-1, 1].
        """
        ab, features = self.predict(l)
        return ab if hints is None else follow_hints(ab, hints, l, features)


class PretrainedUNet(nn.Module):
    """Predict ab from L by a U-Net whose encoder is an ImageNet classifier.

    In train mode a share `dropout` of the planes that the first two levels of the decoder get is dropped (Tompson et
    al. 2015, arXiv:1411.4280), and up to twice that share of the samples skip blocks of the encoder. In eval mode
    colors are evened out over places that look alike, and pale pictures lifted.

    Args:
        encoder: one of LITE_SIZES.
        channels: of the decoder, at 1/16, 1/8, 1/4 and 1/2 of the input's size.
        norm: "batch", "instance" or "group", in the decoder.
        upsample: "pixelshuffle" or "resize".
        lift: exponent by which pictures that come out pale gain color in eval mode, see `lift_pale`.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        encoder: str = "lite2",
        channels: Sequence[int] = (192, 128, 96, 64),
        norm: str = "batch",
        upsample: str = "pixelshuffle",
        lift: float = 0.0,
    ):
        super().__init__()
        if not 0 <= lift < 1:
            raise ValueError(f"lift {lift}: must be in [0, 1)")
        named = {"encoder": encoder, "norm": norm, "upsample": upsample, "lift": lift}
        self.architecture, self.lift = {**named, "channels": list(channels)}, lift
        self.dropout = 0.0
        self.encoder = EfficientNetLite(encoder)
        *skips, deepest = self.encoder.channels
        skips[0] += 4  # L of each of four pixels
        widths = zip([deepest, *channels], skips[::-1], channels, strict=False)
        self.ups = nn.ModuleList(Up(i, skip, o, norm, upsample) for i, skip, o in widths)
        self.attention = SelfAttention(channels[0])
        self.head = UpSample(channels[-1], 2, upsample, kernel_size=3)
        for part in (self.ups, self.attention, self.head):
            part.apply(init_weights)
        for module in self.modules():
            if isinstance(module, UpSample):
                module.init_icnr()
        nn.init.zeros_(self.attention.out.weight)
        self.train()

    def train(self, mode: bool = True) -> PretrainedUNet:
        """Switch the mode of all but the encoder, whose batch norm keeps ImageNet's statistics."""
        super().train(mode)
        self.encoder.eval()
        return self

    def guess(self, l: Tensor) -> tuple[Tensor, Tensor]:
        """Predict color from lightness (B, 1, H, W) in [-1, 1]; any H and W. It is neither evened out nor lifted.

        Returns:
            ab (B, 2, H, W), in [-1, 1], and the features (B, C, H'/4, W'/4) that tell which places look alike; H' and
            W' are the next multiples of 32.
        """
        height, width = l.shape[-2:]
        padded = pad_to_multiple(l, 32)  # (B, 1, H', W')
        *skips, x = self.encoder(padded, 2 * self.dropout if self.training else 0.0)
        # In the precision and layout of what it joins, or all of that would be copied
        light = F.pixel_unshuffle(padded, 2).to(x.dtype, memory_format=torch.channels_last)
        skips[0] = torch.cat([skips[0], light], dim=1)  # (B, C_1 + 4, H'/2, W'/2)
        for level, up in enumerate(self.ups):
            features = F.dropout2d(x, self.dropout) if self.training and level < 2 else x
            x = up(features, skips.pop())  # (B, C_i, H'/2^i, W'/2^i)
            if level == 0:
                x = self.attention(x)
        return torch.tanh(self.head(x))[..., :height, :width], features

    def predict(self, l: Tensor) -> tuple[Tensor, Tensor]:
        """Predict color from lightness (B, 1, H, W); see `GeneratorUNet.predict`."""
        if self.training:
            return self.guess(l)
        height, width = l.shape[-2:]
        padded = pad_to_multiple(l, 32)  # evened out in whole cells, then cut
        ab, features = self.guess(padded)
        return lift_pale(even_out(ab, padded, features)[..., :height, :width], self.lift), features

    def forward(self, l: Tensor, hints: Tensor | None = None) -> Tensor:
        """Predict color, and follow hints if there are any; see `GeneratorUNet.forward`."""
        ab, features = self.predict(l)
        return ab if hints is None else follow_hints(ab, hints, l, features)


Generator = GeneratorUNet | PretrainedUNet


class PatchDiscriminator(nn.Module):
    """Judge overlapping 70x70 patches of (L, ab): the paper's C64-C128-C256-C512 (section 6.1.2).

    Args:
        width: channels of the first layer.
        norm: "batch", "instance" or "group".
        shrink: factor, from 1 to 8, by which the image is shrunk before it is judged; most photographs hold color at
            half of their size (JPEG's 4:2:0).
    """

    def __init__(self, width: int = 64, norm: str = "batch", shrink: int = 1):
        super().__init__()
        if type(shrink) is not int or not 1 <= shrink <= 8:
            raise ValueError(f"shrink {shrink}: must be an integer in [1, 8]")
        self.architecture, self.shrink = {"width": width, "norm": norm, "shrink": shrink}, shrink
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for in_channels, out_channels, stride in ((1, 2, 2), (2, 4, 2), (4, 8, 1)):
            layers += [
                nn.Conv2d(width * in_channels, width * out_channels, 4, stride=stride, padding=1, bias=False),
                norm_layer(norm, width * out_channels),
                nn.LeakyReLU(0.2),
            ]
        layers.append(nn.Conv2d(width * 8, 1, 4, stride=1, padding=1))
        self.layers = nn.Sequential(*layers)
        self.apply(init_weights)

    def forward(self, l: Tensor, ab: Tensor) -> Tensor:
        """Score patches.

        Args:
            l: (B, 1, H, W), in [-1, 1].
            ab: (B, 2, H, W), in [-1, 1].

        Returns:
            (B, 1, H/8 - 2, W/8 - 2) of the shrunken sides: one unbounded score a patch; near 1 means real.
        """
        seen = torch.cat([l, ab], dim=1)
        return self.layers(F.avg_pool2d(seen, self.shrink) if self.shrink > 1 else seen)
