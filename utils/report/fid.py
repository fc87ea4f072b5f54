"""The Frechet Inception distance, as torchmetrics computes it on torch-fidelity's weights.

Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", 2017,
arXiv:1706.08500.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from utils.files import read_tensors
from utils.report.metrics import full_precision
from utils.report.weights import find_weights
from utils.run import UserError
from utils.visualization import GROUND_TRUTH

if TYPE_CHECKING:  # torchmetrics and torch-fidelity take seconds to import
    from torchmetrics.image.fid import FrechetInceptionDistance

FID_COLUMN = "FID"
FID_STAND_IN_COLUMN = "FD (random stand-in)"
_STATISTICS = ("sum", "cov_sum", "num_samples")  # of features, as FrechetInceptionDistance names them


class RandomFeatures(nn.Module):
    """A stand-in for Inception: channel means of three convolutions with fixed random weights.

    Distances between its features say nothing about how an image looks; they show that the code runs.
    """

    widths = (3, 32, 64, 128)
    num_features = sum(widths[1:])

    def __init__(self) -> None:
        super().__init__()
        source = torch.Generator().manual_seed(0)
        for i, (inputs, outputs) in enumerate(pairwise(self.widths)):
            weight = torch.randn(outputs, inputs, 3, 3, generator=source) * math.sqrt(2 / (9 * inputs))
            self.register_buffer(f"weight{i}", weight)

    def forward(self, images: Tensor) -> Tensor:
        """Map uint8 RGB (B, 3, H, W) to features (B, num_features)."""
        x, features = images.float() / 255 * 2 - 1, []
        for weight in self.buffers():
            x = F.relu(F.conv2d(x, weight, stride=2, padding=1))
            features.append(x.mean(dim=(2, 3)))
        return torch.cat(features, dim=1)


class FID:
    """Frechet distances (Heusel et al. 2017, arXiv:1706.08500) of sets of images to one of them, GROUND_TRUTH.

    Args:
        network: maps uint8 RGB (B, 3, H, W) to features (B, network.num_features). It sees every image once.
        column: the only name the report may give the distances.
        device: where to compute.
    """

    def __init__(self, network: nn.Module, column: str, device: torch.device) -> None:
        self.network, self.column = network, column
        self._device = torch.device("cpu") if device.type == "mps" else device  # MPS has no float64
        self._sets: defaultdict[str, FrechetInceptionDistance] = defaultdict(self._metric)

    def _metric(self) -> FrechetInceptionDistance:
        from torchmetrics.image.fid import FrechetInceptionDistance

        metric = FrechetInceptionDistance(self.network, sync_on_compute=False, compute_with_cache=False)
        return metric.to(self._device)

    @torch.inference_mode()
    def add(self, name: str, images: Tensor) -> None:
        """Add images to a set, (B, 3, H, W) uint8."""
        with full_precision():
            self._sets[name].update(images.to(self._device), real=True)

    @torch.inference_mode()
    def merge(self, names: Iterable[str]) -> None:
        """Sum the statistics of all processes; each must call this with the same names of sets."""
        if dist.is_initialized():
            for name in names:
                self._sets[name].orig_dtype = torch.float32  # of the features; unknown to a process without images
                for statistic in _STATISTICS:
                    dist.all_reduce(getattr(self._sets[name], f"real_features_{statistic}"))

    def score(self, name: str) -> float:
        """Compute the distance of a set to the truth; NaN below two images."""
        metric = self._sets[GROUND_TRUTH]
        for statistic in _STATISTICS:
            setattr(metric, f"fake_features_{statistic}", getattr(self._sets[name], f"real_features_{statistic}"))
        if min(metric.real_features_num_samples, metric.fake_features_num_samples) < 2:
            return math.nan
        return max(0.0, metric.compute().item())  # rounding can make it slightly negative for equal sets


def load_fid(weights: str, device: torch.device) -> FID | None:
    """Set up the Frechet distance.

    Args:
        weights: torch-fidelity's Inception, as `utils.report.weights.find_weights` resolves it; "stand-in" is
            `RandomFeatures`.
        device: where to compute.

    Returns:
        None for "none", and, with one line that says why, if the download failed.

    Raises:
        UserError: the file is missing or holds something else.
    """
    if weights == "none":
        return None
    from torch_fidelity import feature_extractor_inceptionv3 as inception

    found = find_weights(weights, inception.URL_INCEPTION_V3, "FID", "--inception-weights")
    if found is None or found == "stand-in":
        return FID(RandomFeatures(), FID_STAND_IN_COLUMN, device) if found else None
    from torchmetrics.image.fid import NoTrainInceptionV3

    try:
        read_tensors(found)  # torch-fidelity unpickles without restrictions; this accepts only tensors
        network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(found))
    except Exception as error:  # a foreign file can fail to load in any way
        raise UserError(f"{found}: not torch-fidelity's Inception weights ({type(error).__name__})") from None
    network.num_features = torch.tensor(2048)  # FrechetInceptionDistance reads it
    return FID(network, FID_COLUMN, device)
