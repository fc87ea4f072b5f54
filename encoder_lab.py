"""EfficientNet-Lite as an encoder of L: the classifier's layers without its head, weights as timm names them.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", 2019, arXiv:1905.11946. Lite
leaves out squeeze-and-excitation and uses ReLU6. Written out here because importing timm takes longer than importing
torch, and every colored photograph would wait for it; a test compares the two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LITE_SIZES = {  # factors of the widths and depths of EfficientNet-Lite
    "lite0": (1.0, 1.0),
    "lite1": (1.0, 1.1),
    "lite2": (1.1, 1.2),
    "lite3": (1.2, 1.4),
    "lite4": (1.4, 1.8),
}
LITE_STAGES = (  # expansion, kernel size, stride, channels, blocks
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
FROZEN_STAGES = 3  # up to 1/8 of the size
LITE_FEATURES = (0, 1, 2, 4, 6)  # stages whose output the decoder sees: the last at 1/2 to 1/32 of the size


class DepthwiseConv(nn.Conv2d):
    """k x k depthwise convolution with TensorFlow's "same" padding, which is one-sided for stride 2."""

    def __init__(self, channels: int, kernel_size: int, stride: int):
        padding = kernel_size // 2 if stride == 1 else 0
        super().__init__(channels, channels, kernel_size, stride, padding, groups=channels, bias=False)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Compute the layer with other weights (C, 1, k, k): (B, C, H, W) to (B, C, H/stride, W/stride)."""
        if self.stride == (2, 2):
            before = (self.kernel_size[0] - 2) // 2
            x = F.pad(x, (before, before + 1, before, before + 1))  # even sides
        if x.is_cpu and self.kernel_size == (5, 5) and torch.is_grad_enabled() and weight.requires_grad:
            # oneDNN's bfloat16 backward pass takes 3.4 times as long as float32's (docs/PERFORMANCE.md)
            with torch.autocast("cpu", enabled=False):
                return self._conv_forward(x.float(), weight, bias)
        return self._conv_forward(x, weight, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolve(x, self.weight, self.bias)


def conv_norm(conv: nn.Conv2d, norm: nn.Module, x: Tensor) -> Tensor:
    """Compute norm(conv(x)) of x (B, C, H, W) as one convolution: the norm's statistics are constants.

    The gradient reaches the weights of both. A norm that `fold_norms` has replaced is left out.
    """
    weight: Tensor = conv.weight
    bias = conv.bias
    if isinstance(norm, nn.BatchNorm2d):
        assert norm.running_var is not None and norm.running_mean is not None
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        weight, bias = conv.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale
    if isinstance(conv, DepthwiseConv):
        return conv.convolve(x, weight, bias)
    return F.conv2d(x, weight, bias, conv.stride)


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter by a depthwise convolution, project by 1x1; the first stage does not expand.

    Sandler et al. 2018, "MobileNetV2", arXiv:1801.04381. Names of the weights as in timm. In training some samples
    skip a block that has a shortcut (stochastic depth, Huang et al. 2016, arXiv:1603.09382).
    """

    def __init__(self, in_channels: int, out_channels: int, expansion: int, kernel_size: int, stride: int):
        super().__init__()
        hidden = in_channels * expansion
        self.expands = expansion > 1
        if self.expands:
            self.conv_pw = nn.Conv2d(in_channels, hidden, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(hidden, eps=1e-3)
            self.conv_dw = DepthwiseConv(hidden, kernel_size, stride)
            self.bn2 = nn.BatchNorm2d(hidden, eps=1e-3)
            self.conv_pwl = nn.Conv2d(hidden, out_channels, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(out_channels, eps=1e-3)
        else:
            self.conv_dw = DepthwiseConv(hidden, kernel_size, stride)
            self.bn1 = nn.BatchNorm2d(hidden, eps=1e-3)
            self.conv_pw = nn.Conv2d(hidden, out_channels, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(out_channels, eps=1e-3)
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor, skipped_share: float = 0.0) -> Tensor:
        if self.expands:
            y = F.relu6(conv_norm(self.conv_pw, self.bn1, x), inplace=True)  # (B, hidden, H, W)
            y = F.relu6(conv_norm(self.conv_dw, self.bn2, y), inplace=True)  # (B, hidden, H/stride, W/stride)
            y = conv_norm(self.conv_pwl, self.bn3, y)  # (B, out, H/stride, W/stride)
        else:
            y = F.relu6(conv_norm(self.conv_dw, self.bn1, x), inplace=True)
            y = conv_norm(self.conv_pw, self.bn2, y)
        if not self.has_shortcut:
            return y
        if skipped_share:
            kept = torch.rand(len(x), 1, 1, 1, device=x.device) >= skipped_share
            y = y * kept / (1 - skipped_share)
        return x + y


class EfficientNetLite(nn.Module):
    """The encoder: EfficientNet-Lite without its classifier, for one input channel.

    Tan and Le 2019, "EfficientNet", arXiv:1905.11946; Lite: without squeeze-and-excitation, with ReLU6. For gray
    RGB the networks' L is nearly the input in [-1, 1] that it was trained on, so the stem's weights are summed over
    RGB. Its names are those of timm's tf_efficientnet_lite0 to 4.

    Args:
        name: one of LITE_SIZES.
        in_channels: 1 for L, or 3 for RGB, both in [-1, 1].
    """

    def __init__(self, name: str, in_channels: int = 1):
        super().__init__()
        if name not in LITE_SIZES:
            raise ValueError(f"encoder {name!r}: give one of {', '.join(LITE_SIZES)}")
        self.name = name
        width, depth = LITE_SIZES[name]
        self.conv_stem = nn.Conv2d(in_channels, 32, 3, stride=2, bias=False)
        self.bn1 = nn.BatchNorm2d(32, eps=1e-3)
        self.blocks = nn.ModuleList()
        self.channels: list[int] = []  # of the features
        in_channels, self.depth = 32, 0
        for number, (expansion, kernel_size, stride, channels, repeats) in enumerate(LITE_STAGES):
            out_channels = max(8, int(channels * width + 4) // 8 * 8)
            out_channels += 8 * (out_channels < 0.9 * channels * width)
            repeats = repeats if number in (0, len(LITE_STAGES) - 1) else math.ceil(repeats * depth)
            self.depth += repeats
            stage = nn.Sequential()
            for i in range(repeats):
                stage.append(InvertedResidual(in_channels, out_channels, expansion, kernel_size, 1 if i else stride))
                in_channels = out_channels
            self.blocks.append(stage)
            if number in LITE_FEATURES:
                self.channels.append(out_channels)
        self.requires_grad_()

    def requires_grad_(self, requires_grad: bool = True) -> EfficientNetLite:
        """Let the deeper stages learn, or none; the shallow ones stay: they cost a third of the backward pass."""
        super().requires_grad_(False)
        for stage in self.blocks[FROZEN_STAGES:]:
            stage.requires_grad_(requires_grad)
        return self

    def forward(self, x: Tensor, drop_path: float = 0.0) -> list[Tensor]:
        """Compute the features (B, C_i, H/2^i, W/2^i) of an image in [-1, 1], whose sides are multiples of 32.

        The share of samples that skip a block rises with its depth, from 0 to `drop_path`; only those with a shortcut
        can be skipped, and the very last has none.
        """
        x = F.relu6(conv_norm(self.conv_stem, self.bn1, F.pad(x, (0, 1, 0, 1))), inplace=True)
        features: list[Tensor] = []
        passed, rise = 0, drop_path / (self.depth - 1)
        for number, stage in enumerate(self.blocks):
            for block in stage.children():
                x = block(x, passed * rise)
                passed += 1
            if number in LITE_FEATURES:
                features.append(x)
        return features

    def load_imagenet(self, state: Mapping[str, Tensor]) -> None:
        """Take over a classifier's weights, under timm's names or, in the same order, under others.

        Raises:
            ValueError: they are not those of this classifier.
        """
        own = self.state_dict()
        values = dict(zip(own, state.values(), strict=False))  # the classifier's head comes last
        fits = len(values) == len(own) and values["conv_stem.weight"].shape == (32, 3, 3, 3)
        if fits and self.conv_stem.in_channels == 1:
            values["conv_stem.weight"] = values["conv_stem.weight"].sum(dim=1, keepdim=True)
        if not fits or any(values[name].shape != own[name].shape for name in own):
            raise ValueError("not the weights of this classifier")
        self.load_state_dict(values)
