"""LPIPS, the learned perceptual distance, as torchmetrics computes it on torchvision's AlexNet.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", 2018, arXiv:1801.03924.
torchmetrics ships the five learned heads; AlexNet's ImageNet weights are torchvision's download, or a file.
"""

from __future__ import annotations

import http.client
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import AlexNet_Weights

from utils.metrics import full_precision
from utils.run import UserError, gather, is_main_of_machine, say

LPIPS_COLUMN = "LPIPS"
STAND_IN_COLUMN = "PD (random stand-in)"  # a perceptual distance in form alone
MIN_SIZE = 31  # pixels that AlexNet's two poolings leave something of
_STAND_IN_SEED = 18


class LPIPS:
    """Distances of images to their truth, one an image; `column` is the name under which they may be shown."""

    def __init__(self, network: nn.Module, column: str) -> None:
        self.network, self.column = network, column

    @torch.inference_mode()
    def score(self, images: Tensor, truth: Tensor) -> Tensor:
        """Compare float RGB images (B, 3, H, W), in [0, 1], to the truth: (B,), 0 for an equal image."""
        with full_precision():
            return self.network(images, truth, normalize=True)[:, 0, 0, 0]


def load_lpips(weights: str, img_size: int, device: torch.device) -> LPIPS | None:
    """Set up LPIPS.

    Args:
        weights: "download" (torchvision's AlexNet weights, kept in torch's own cache), a file with them, "stand-in"
            (fixed-seed random weights), "download-or-stand-in", or "none".
        img_size: side of the images to come, in pixels.
        device: where to compute.

    Returns:
        None for "none", for images that are too small, and when the weights cannot be downloaded; one line says so.

    Raises:
        UserError: the file is missing or holds something else.
    """
    if weights == "none":
        return None
    if img_size < MIN_SIZE:
        say(f"no LPIPS: it needs --img-size {MIN_SIZE} or more")
        return None
    state: dict[str, Tensor] | None = None
    if weights in ("download", "download-or-stand-in"):
        state = _download_alexnet()
        if state is None and weights == "download":
            return None
    elif weights != "stand-in":
        state = _read_alexnet(weights)

    from torchmetrics.functional.image.lpips import _NoTrainLpips  # the public class can only download

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_STAND_IN_SEED)
        network = _NoTrainLpips(net="alex", pnet_rand=True)
    if state is not None:
        own = network.net.state_dict()  # slice2.3.weight is torchvision's features.3.weight
        try:
            network.net.load_state_dict({name: state[f"features.{name.partition('.')[2]}"] for name in own})
        except (KeyError, RuntimeError, TypeError, AttributeError):
            raise UserError(f"--lpips-weights {weights}: not a state dict of torchvision's alexnet") from None
    return LPIPS(network.to(device).eval(), STAND_IN_COLUMN if state is None else LPIPS_COLUMN)


def _download_alexnet() -> dict[str, Tensor] | None:
    """Fetch torchvision's weights, once a machine, or say in one line why not."""
    problem, state = "", None
    for is_turn in (is_main_of_machine(), not is_main_of_machine()):  # the others find it in the cache
        if is_turn and not problem:
            try:
                state = AlexNet_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True)
            except (OSError, RuntimeError, http.client.HTTPException) as error:
                problem = str(error) or type(error).__name__
        problem = next(filter(None, gather(problem)), "")
    if problem:
        say(f"no LPIPS: AlexNet weights cannot be downloaded ({problem}); --lpips-weights FILE names a copy")
    return None if problem else state


def _read_alexnet(weights: str) -> dict[str, Tensor]:
    if not Path(weights).is_file():
        raise UserError(f"--lpips-weights {weights}: no such file; give torchvision's alexnet weights")
    try:
        return torch.load(weights, map_location="cpu", weights_only=True)
    except Exception as error:  # a file from a stranger can fail to load in any way
        raise UserError(f"--lpips-weights {weights}: not a weights file ({type(error).__name__})") from None
