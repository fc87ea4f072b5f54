"""LPIPS, the learned perceptual distance, as torchmetrics computes it on torchvision's AlexNet.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", 2018, arXiv:1801.03924.
torchmetrics ships the five learned heads. The ImageNet weights of AlexNet are downloaded from torchvision, or read
from a file.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models import AlexNet_Weights

from utils.report.metrics import full_precision
from utils.report.weights import find_weights
from utils.run import UserError, say

LPIPS_COLUMN = "LPIPS"
LPIPS_STAND_IN_COLUMN = "PD (random stand-in)"  # a perceptual distance in form only
MIN_SIZE = 31  # pixels; AlexNet's two poolings leave nothing of smaller images
_STAND_IN_SEED = 18


class LPIPS:
    """Distance of each image to its truth; `column` is the only name the report may give it."""

    def __init__(self, network: nn.Module, column: str) -> None:
        self.network, self.column = network, column

    @torch.inference_mode()
    def score(self, images: Tensor, truth: Tensor) -> Tensor:
        """Compare float RGB images (B, 3, H, W), in [0, 1], to the truth: (B,), 0 for equal images."""
        with full_precision():
            return self.network(images, truth, normalize=True)[:, 0, 0, 0]


def load_lpips(weights: str, img_size: int, device: torch.device) -> LPIPS | None:
    """Set up LPIPS.

    Args:
        weights: torchvision's alexnet, as `utils.report.weights.find_weights` resolves it; "stand-in" is random.
        img_size: side of the images, in pixels.
        device: where to compute.

    Returns:
        None for "none", and, with one line that says why, if the images are too small or the download failed.

    Raises:
        UserError: the file is missing or holds something else.
    """
    if weights != "none" and img_size < MIN_SIZE:
        say(f"no LPIPS: it needs --img-size {MIN_SIZE} or more")
        return None
    found = find_weights(weights, AlexNet_Weights.IMAGENET1K_V1.url, "LPIPS", "--lpips-weights")
    if found is None:
        return None

    from torchmetrics.functional.image.lpips import _NoTrainLpips  # the public class can only download

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_STAND_IN_SEED)
        network = _NoTrainLpips(net="alex", pnet_rand=True).to(device)
    if found == "stand-in":
        return LPIPS(network, LPIPS_STAND_IN_COLUMN)
    try:
        state = torch.load(found, map_location=device, weights_only=True)
        own = network.net.state_dict()  # slice2.3.weight is torchvision's features.3.weight
        network.net.load_state_dict({name: state[f"features.{name.partition('.')[2]}"] for name in own})
    except Exception as error:  # a foreign file can fail to load in any way
        raise UserError(f"{found}: not torchvision's alexnet weights ({type(error).__name__})") from None
    return LPIPS(network, LPIPS_COLUMN)
