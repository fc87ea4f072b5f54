"""Recipe changes that `benchmarks.ablate` tries: flags of train_lab.py, and parts that stand in for its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from models_lab import GeneratorUNet, PatchDiscriminator, init_weights, norm_layer
from utils.lab import decode_lab, denormalize_ab, normalize_ab
from utils.losses import gan_loss


@dataclass(frozen=True)
class Phase:
    """One run of train_lab.py, which starts from the phase before.

    Attributes:
        flags: fields of TrainConfig.
        parts: names of train_lab.py, and what stands for them.
        share: of the budget of images.
        images: which of the command line's sources it sees: "images", "unfiltered" or "pretrain".
    """

    flags: Mapping[str, object] = field(default_factory=dict)
    parts: Mapping[str, Callable] = field(default_factory=dict)
    share: float = 1.0
    images: str = "images"


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut, of which the second starts at zero."""

    def __init__(self, channels: int, norm: str):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            norm_layer(norm, channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        self.layers.apply(init_weights)
        nn.init.zeros_(self.layers[-1].weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Attention(nn.Module):
    """Self-attention over all places, with a weight that starts at 0 (Zhang et al. 2018, arXiv:1805.08318)."""

    def __init__(self, channels: int, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.out = nn.Conv2d(channels, channels, 1)
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).flatten(2).unflatten(1, (3, self.heads, -1)).transpose(-1, -2).unbind(1)
        y = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(x.shape)
        return x + self.weight * self.out(y)


class ResidualGenerator(GeneratorUNet):
    """The U-Net with a residual block after each level of its decoder but the last."""

    def __init__(self, width: int, depth: int, norm: str, upsample: str):
        super().__init__(width, depth, norm, upsample)
        for up in self.ups[:-1]:
            up.conv = nn.Sequential(up.conv, ResidualBlock(up.conv.out_channels, norm))


class AttentionGenerator(GeneratorUNet):
    """The U-Net with self-attention at a 16th of its input's size."""

    def __init__(self, width: int, depth: int, norm: str, upsample: str):
        super().__init__(width, depth, norm, upsample)
        self.downs[3].norm = nn.Sequential(self.downs[3].norm, Attention(self.downs[3].conv.out_channels))


class TransposedUpSample(nn.Module):
    """The paper's 4x4 transposed convolution."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1)
        nn.init.normal_(self.conv.weight, 0.0, 0.02)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class TransposedGenerator(GeneratorUNet):
    """The U-Net with transposed convolutions."""

    def __init__(self, width: int, depth: int, norm: str, upsample: str):
        super().__init__(width, depth, norm, upsample)
        for up in self.ups:
            channels = up.up.conv
            up.up = TransposedUpSample(channels.in_channels, up.conv.out_channels // 2)
        self.head = TransposedUpSample(width, 2)


class SpectralDiscriminator(PatchDiscriminator):
    """The PatchGAN with spectral norm (Miyato et al. 2018, arXiv:1802.05957)."""

    def __init__(self, width: int, norm: str):
        super().__init__(width, norm)
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                spectral_norm(layer)


class GeneratorLoss:
    """A GAN loss whose third call of a step, the generator's, is special: train_lab.py asks for D real, D fake, G."""

    def __init__(self, d_loss: Callable[[Tensor, bool], Tensor], g_loss: Callable[[Tensor], Tensor]):
        self.d_loss, self.g_loss, self.after_fake = d_loss, g_loss, False

    def __call__(self, scores: Tensor, is_real: bool) -> Tensor:
        is_generators, self.after_fake = is_real and self.after_fake, not is_real
        return self.g_loss(scores.float()) if is_generators else self.d_loss(scores.float(), is_real)


def hinge(scores: Tensor, is_real: bool) -> Tensor:
    """The hinge loss of D (Lim and Ye 2017, arXiv:1705.02894)."""
    return F.relu(1 - scores if is_real else 1 + scores).mean()


def bce(scores: Tensor, is_real: bool) -> Tensor:
    """The original GAN loss, non-saturating (Goodfellow et al. 2014, arXiv:1406.2661)."""
    scores = scores.float()
    return F.binary_cross_entropy_with_logits(scores, torch.full_like(scores, float(is_real)))


def color_loss(function: Callable[[Tensor, Tensor], Tensor]) -> dict[str, SimpleNamespace]:
    """Make what stands for `torch.nn.functional` in train_lab.py, with another loss of ab for its L1."""
    return {"F": SimpleNamespace(l1_loss=function)}


def huber(fake: Tensor, real: Tensor) -> Tensor:
    """The Huber loss with its corner at 11 units of CIELAB, of L1's slope beyond it."""
    return F.smooth_l1_loss(fake, real, beta=0.1)


def squared(fake: Tensor, real: Tensor) -> Tensor:
    """The squared error, scaled to about the size of L1."""
    return 5 * F.mse_loss(fake, real)


def mean_chroma(ab: Tensor) -> Tensor:
    """Average the chroma of each image, (B,), in the scale of ab (B, 2, H, W)."""
    return (ab.square().sum(dim=1) + 1e-6).sqrt().mean(dim=(1, 2))


def l1_and_chroma(fake: Tensor, real: Tensor) -> Tensor:
    """L1, and the distance of each image's mean chroma to the truth's."""
    return F.l1_loss(fake, real) + 0.2 * (mean_chroma(fake) - mean_chroma(real)).abs().mean()


CELL = 12.5  # CIELAB units: side of a cell of the ab plane
CELLS = 16  # in each direction, from -100 to 100


def cell_of(ab: Tensor) -> Tensor:
    """Number the cells of the ab plane: (B, 2, H, W) in [-1, 1] to (B, H, W), from 0."""
    a, b = (denormalize_ab(ab) / CELL + CELLS / 2).long().clamp(0, CELLS - 1).unbind(dim=1)
    return a * CELLS + b


class Rarity:
    """Weights by the rarity of a color (Zhang, Isola and Efros 2016, arXiv:1603.08511, equation 4), of mean 1.

    The colors are counted as they come by, and half of every probability is uniform.
    """

    def __init__(self) -> None:
        self.counts = torch.ones(CELLS * CELLS)

    def __call__(self, cells: Tensor) -> Tensor:
        self.counts += torch.bincount(cells.flatten(), minlength=CELLS * CELLS).cpu()
        shares = self.counts / self.counts.sum()
        weights = 1 / (0.5 * shares + 0.5 / CELLS**2)
        return (weights / (weights * shares).sum()).to(cells.device)[cells]


def rarity_l1() -> Callable[[Tensor, Tensor], Tensor]:
    """L1 weighted by the rarity of the true color."""
    rarity = Rarity()
    return lambda fake, real: (rarity(cell_of(real)).unsqueeze(1) * (fake - real).abs()).mean()


class ClassifyingGenerator(GeneratorUNet):
    """The U-Net with a class for each cell of the ab plane, at half the resolution; ab is their annealed mean.

    Zhang, Isola and Efros 2016, arXiv:1603.08511, equation 5, with their temperature.
    """

    def __init__(self, width: int, depth: int, norm: str, upsample: str):
        super().__init__(width, depth, norm, upsample)
        self.head = nn.Conv2d(width, CELLS * CELLS, 3, padding=1)
        init_weights(self.head)
        middle = (torch.arange(CELLS) + 0.5) * CELL - 100
        centers = torch.stack(torch.meshgrid(middle, middle, indexing="ij")).flatten(1)  # (2, C)
        self.register_buffer("centers", normalize_ab(centers))

    def forward(self, l: Tensor) -> Tensor:
        height, width = l.shape[-2:]
        multiple = 2 ** len(self.downs)
        x = F.pad(l, (0, -width % multiple, 0, -height % multiple), mode="replicate")
        skips = []
        for down in self.downs:
            x = down(x)
            skips.append(x)
        skips.pop()
        for up in self.ups:
            x = up(x, skips.pop())
        logits = self.head(x).float()  # (B, C, H'/2, W'/2)
        if self.training:
            ClassifyingGenerator.logits = logits
        ab = torch.einsum("bchw,dc->bdhw", (logits / 0.38).softmax(dim=1), self.centers)
        return F.interpolate(ab, scale_factor=2, mode="bilinear")[..., :height, :width]


def cross_entropy() -> Callable[[Tensor, Tensor], Tensor]:
    """The rarity-weighted cross-entropy of the generator's classes, scaled to about the size of L1."""
    rarity = Rarity()

    def loss(fake: Tensor, real: Tensor) -> Tensor:
        cells = cell_of(F.avg_pool2d(real, 2))
        return (rarity(cells) * F.cross_entropy(ClassifyingGenerator.logits, cells, reduction="none")).mean() / 50

    return loss


def jittered_decode(l: Tensor, ab: Tensor) -> tuple[Tensor, Tensor]:
    """Scale a stored sample, with the lightness of each image bent by a power from 0.7 to 1.4."""
    l, ab = decode_lab(l, ab)
    gamma = torch.exp(torch.empty(len(l), 1, 1, 1, device=l.device).uniform_(-0.35, 0.35))
    return 2 * ((l + 1) / 2).clamp(min=0) ** gamma - 1, ab


def only_d(scores: Tensor) -> Tensor:
    """Give the generator nothing of D, which is trained all the same."""
    return 0 * scores.mean()


L1_FIRST = {"gan_loss": GeneratorLoss(gan_loss, only_d)}
VARIANTS: dict[str, tuple[Phase, ...]] = {
    "base": (Phase(),),
    "L1 x 2.5": (Phase({"lambda_l1": 250.0}),),
    "L1 x 5": (Phase({"lambda_l1": 500.0}),),
    "L1 x 0.3": (Phase({"lambda_l1": 30.0}),),
    "L1 alone": (Phase(parts=L1_FIRST),),
    "L1, then GAN": (Phase(parts=L1_FIRST, share=0.7), Phase({"learning_rate": 1e-4}, share=0.3)),
    "L1, then GAN with L1 x 2.5": (
        Phase(parts=L1_FIRST, share=0.7),
        Phase({"learning_rate": 1e-4, "lambda_l1": 250.0}, share=0.3),
    ),
    "Huber": (Phase(parts=color_loss(huber)),),
    "squared error": (Phase(parts=color_loss(squared)),),
    "rarity-weighted L1": (Phase(parts=color_loss(rarity_l1())),),
    "classes of color": (Phase(parts={"GeneratorUNet": ClassifyingGenerator, **color_loss(cross_entropy())}),),
    "chroma term": (Phase(parts=color_loss(l1_and_chroma)),),
    "scale jitter 0.1": (Phase({"scale_jitter": 0.1}),),
    "scale jitter 0.3": (Phase({"scale_jitter": 0.3}),),
    "lightness jitter": (Phase(parts={"decode_lab": jittered_decode}),),
    "gray images kept": (Phase(images="unfiltered"),),
    "pre-training, same budget": (Phase(images="pretrain", share=0.5), Phase(share=0.5)),
    "pre-training on top": (Phase(images="pretrain"), Phase()),
    "32 px first": (
        Phase({"img_size": 32, "load_size": 36, "gen_depth": 5, "cache_dir": Path("none")}, share=0.5),
        Phase(share=0.5),
    ),
    "hinge": (Phase(parts={"gan_loss": GeneratorLoss(hinge, lambda scores: -scores.mean())}),),
    "BCE": (Phase(parts={"gan_loss": bce}),),
    "spectral norm in D": (Phase(parts={"PatchDiscriminator": SpectralDiscriminator}),),
    "learning rate x 2": (Phase({"learning_rate": 4e-4}),),
    "EMA 0.99": (Phase({"ema_decay": 0.99}),),
    "EMA 0.9999": (Phase({"ema_decay": 0.9999}),),
    "batch 8": (Phase({"batch_size": 8}),),
    "width 48": (Phase({"gen_width": 48}),),
    "width 64": (Phase({"gen_width": 64}),),
    "depth 5": (Phase({"gen_depth": 5}),),
    "instance norm": (Phase({"norm": "instance"}),),
    "group norm": (Phase({"norm": "group"}),),
    "resize-convolution": (Phase({"upsample": "resize"}),),
    "transposed convolution": (Phase(parts={"GeneratorUNet": TransposedGenerator}),),
    "residual decoder": (Phase(parts={"GeneratorUNet": ResidualGenerator}),),
    "attention": (Phase(parts={"GeneratorUNet": AttentionGenerator}),),
}
