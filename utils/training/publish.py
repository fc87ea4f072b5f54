"""Write a generator in half precision, for passing on.

    python -m utils.training.publish checkpoints_finetune/G_finetune_epoch_04.pt G_half.pt [--lift 0.1]

Reads a G_*.pt file; writes one, at half the size, with its entries, that every script opens. Absolute paths in the
configuration are cut down to their last part.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from models_lab import GeneratorUNet
from utils import run
from utils.run import UserError
from utils.training import checkpoints

MEND = "name a G_*.pt file that one of the training scripts wrote"


@dataclass(frozen=True)
class PublishConfig:
    """Write a generator in half precision."""

    source: tyro.conf.Positional[Path]
    """G_*.pt file."""
    target: tyro.conf.Positional[Path]
    """File to write."""
    saturation: float = 1.0
    """Multiply ab by this before the final tanh; it is folded into the last layer."""
    working_size: int | None = None
    """Shorter side at which it colors, in pixels; the source's own, at first that of its training, when not given."""
    lift: float | None = None
    """Exponent by which pale pictures gain color (`affinity_lab.lift_pale`); the source's own when not given."""


def _without_folders(value: object) -> object:
    if isinstance(value, list):
        return [_without_folders(item) for item in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def publish(cfg: PublishConfig) -> None:
    """Copy a generator's file with the weights rounded to float16.

    Raises:
        UserError: the source is no generator or is the target as well, a number is out of its range, or a weight is
            too large for float16.
    """
    if cfg.working_size is not None and not 1 <= cfg.working_size <= checkpoints.MAX_SIDE:
        raise UserError(f"--working-size {cfg.working_size}: must be from 1 to {checkpoints.MAX_SIDE}")
    if not 0 < cfg.saturation < math.inf:
        raise UserError(f"--saturation {cfg.saturation}: must be a positive, finite number")
    if cfg.target.resolve() == cfg.source.resolve():
        raise UserError(f"{cfg.target}: is what it would be made from; name another file")
    checkpoints.load_generator(cfg.source, torch.device("cpu"), MEND)  # it is one
    entries = checkpoints.read(cfg.source, MEND)
    if cfg.lift is not None:
        if not 0 <= cfg.lift < 1 or entries["kind"] == GeneratorUNet.__name__:
            raise UserError(f"--lift {cfg.lift}: must be in [0, 1), for a generator with a pretrained encoder")
        entries["architecture"]["lift"] = cfg.lift
    weights = {
        name: value.half() if value.is_floating_point() else value for name, value in entries["weights"].items()
    }
    for name in weights:
        if "head" in name.split("."):
            weights[name] *= cfg.saturation
    if not all(value.isfinite().all() for value in weights.values()):
        raise UserError(f"{cfg.source}: has weights beyond float16's range")
    config = {name: _without_folders(value) for name, value in entries["config"].items()}
    entries |= {"weights": weights, "config": config, "saturation": entries.get("saturation", 1.0) * cfg.saturation}
    if cfg.working_size is not None:
        entries["working_size"] = cfg.working_size
    checkpoints.save(cfg.target, entries)
    run.say(f"{cfg.target}: {cfg.target.stat().st_size / 1e6:.1f} MB")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and give the exit code."""
    return run.run_script(PublishConfig, publish, argv)


if __name__ == "__main__":
    sys.exit(main())
