"""G_*.pt, which is all that coloring needs, and D_*.pt, which the next stage reads along with it.

Every file is a dict of tensors and plain types that `torch.load(..., weights_only=True)` opens; code in a
file from elsewhere never runs.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

import config
from models_lab import Generator, GeneratorUNet, PatchDiscriminator, PretrainedUNet
from utils import run
from utils.files import open_atomically, read_tensors
from utils.run import UserError, plain_config

Network = TypeVar("Network", bound=nn.Module)
FORMAT = 1
GENERATORS: Sequence[type[Generator]] = (GeneratorUNet, PretrainedUNet)
MEND = "name a G_*.pt file that one of the training scripts wrote, or an .onnx file that export_lab.py wrote"
MAX_SIDE = 8192  # pixels of a training crop
_STAGE_FILES = {  # what a report calls each stage, and the files that it writes
    "Subset": (config.SUBSET_CHECKPOINTS, r"G_epoch_(\d+)\.pt"),
    "Finetune": (config.FINETUNE_CHECKPOINTS, r"G_finetune_epoch_(\d+)\.pt"),
    "Finetune+VGG": (config.FINETUNE_CHECKPOINTS, r"G_ft_fromE(\d+)_vgg_epoch_(\d+)\.pt"),
}
_PATHS = {"images_dir", "cache_dir", "output_dir", "filter_report", "init_checkpoint", "teachers"}
_ARCHITECTURE = {"gen_width", "gen_depth", "disc_width", "norm", "upsample"}  # a hand-off keeps the file's own
_ARCHITECTURE |= {"encoder", "encoder_weights", "frozen_share"}
ABSENT = {"dropout": 0.0, "teachers": []}  # what a file from before these settings was trained with
MAY_CHANGE = {"resume", "num_workers", "device", "last_every", "save_every", "sample_every"}


def describe(
    stage: str,
    epoch: int,
    step: int,
    cfg: config.TrainingConfig,
    metrics: Mapping[str, float],
    vgg: str | None = None,
) -> dict[str, object]:
    """Gather what a network's file says about its training; `vgg` names the weights of a perceptual loss."""
    info = {"stage": stage, "epoch": epoch, "step": step, "config": plain_config(cfg)}
    return {**info, "metrics": dict(metrics), "vgg": vgg}


def save(path: Path, entries: dict[str, object]) -> None:
    """Write a dict as a checkpoint, whole or not at all."""
    with open_atomically(path) as file:
        try:
            torch.save({"format": FORMAT, **entries}, file)
        except RuntimeError as error:  # what torch makes of a full disk
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def save_network(path: Path, network: Generator | PatchDiscriminator, info: Mapping[str, object]) -> None:
    """Write a network's weights with its architecture, `info` and the commit of the code."""
    weights = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    kind = type(network).__name__
    entries = {"kind": kind, "architecture": network.architecture, "weights": weights, **info}
    save(path, {**entries, "commit": run.git_commit()})


def read(path: Path, mend: str) -> dict:
    """Read a checkpoint.

    Raises:
        UserError: it does not exist (the message ends in `mend`), is damaged, or is not this project's.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; {mend}")
    try:
        entries = read_tensors(path)
    except Exception as error:  # a damaged or foreign file can fail to load in any way
        raise UserError(f"{path}: not a readable checkpoint ({type(error).__name__}); {mend}") from None
    if not isinstance(entries, dict) or entries.get("format") != FORMAT:
        raise UserError(f"{path}: not a checkpoint of this project (format {FORMAT}); {mend}")
    return entries


def _build(classes: Sequence[type[Network]], path: Path, mend: str) -> tuple[Network, dict]:
    entries = read(path, mend)
    try:
        kinds = {network_class.__name__: network_class for network_class in classes}
        if entries["kind"] not in kinds:
            raise UserError(f"{path}: a file of kind {entries['kind']}, not {' or '.join(kinds)}; {mend}")
        with torch.device("meta"):
            network = kinds[entries["kind"]](**entries["architecture"])
        weights: dict[str, Tensor] = {name: value.float() for name, value in entries.pop("weights").items()}
        for name, value in network.state_dict().items():
            if not value.is_floating_point():
                weights[name] = weights[name].to(value.dtype)
        network.load_state_dict(weights, assign=True)  # strict: no key may be missing
        if not all(value.abs().amax().isfinite() for value in weights.values()):  # isfinite takes longer than loading
            raise ValueError("numbers that are not finite")
        check_entries(entries)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
        if isinstance(error, UserError) and str(error).startswith(str(path)):
            raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: its entries do not fit ({type(error).__name__}: {reason}); {mend}") from None
    return network, entries


def load_generator(path: Path, device: torch.device, mend: str = MEND) -> tuple[Generator, dict]:
    """Build the generator of a G_*.pt file, ready for inference; an error's message ends in `mend`.

    Returns:
        The generator on `device` in eval mode, and the file's other entries: architecture, stage, epoch, step,
        config, metrics, vgg, commit.

    Raises:
        UserError: the file is missing, damaged or something else.
    """
    generator, info = _build(GENERATORS, path, mend)
    return run.place(generator, device).eval(), info


def check_entries(info: dict) -> None:
    """Check the entries of a generator's file that are used besides its weights.

    Raises:
        KeyError, TypeError, ValueError: something is missing or makes no sense.
    """
    if not 1 <= working_size(info) <= MAX_SIDE:
        raise ValueError(f"img_size {working_size(info)}")
    if not (isinstance(info["stage"], str) and isinstance(info["epoch"], int) and isinstance(info["step"], int)):
        raise TypeError("stage, epoch or step")
    saturation = info.get("saturation", 1.0)
    if type(saturation) not in (int, float) or not 0 < saturation < math.inf:
        raise ValueError(f"saturation {saturation}")


def working_size(info: dict) -> int:
    """Give the shorter side, in pixels, at which the network of a file with these entries colors.

    It is that of the crops it was trained on, unless `utils.training.publish` gave it another.
    """
    return int(info.get("working_size") or info["config"]["img_size"])


def load_stage(path: Path, device: torch.device, run_first: str) -> tuple[Generator, PatchDiscriminator, dict]:
    """Take over the generator and the discriminator of an earlier stage; no key of either may be missing.

    The third result is the generator's entries, with "digest", the SHA-256 of its file.

    Args:
        path: G_*.pt; the discriminator is read from the D_*.pt beside it.
        device: where to.
        run_first: the script to run when there is no such file.

    Raises:
        UserError: one of the files is missing, damaged or something else.
    """
    mend = f"run python {run_first} first, or check --init-checkpoint"
    if path.is_file() and not path.name.startswith("G_"):
        raise UserError(f"--init-checkpoint {path}: name the G_*.pt file; the D_*.pt beside it is read as well")
    generator, info = _build(GENERATORS, path, mend)
    discriminator, _ = _build([PatchDiscriminator], path.with_name("D_" + path.name.removeprefix("G_")), mend)
    info["digest"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return run.place(generator, device).train(), run.place(discriminator, device).train(), info


def say_hand_off(path: Path, info: dict, cfg: config.TrainingConfig) -> None:
    """Print what a stage inherits from the one before and what it overrides.

    Raises:
        UserError: it would hold out images that the stage before was trained on.
    """
    run.say(f"inherits {path}: G and D after stage {info['stage']}, epoch {info['epoch']}, step {info['step']}")
    run.say(f"inherits architecture: {info['architecture']}")
    earlier = {**ABSENT, **info["config"]}
    if not isinstance(earlier.get("val_fraction"), float):
        raise UserError(f"{path}: does not say which images were held out; name another --init-checkpoint")
    if cfg.val_fraction > earlier["val_fraction"]:
        raise UserError(
            f"--val-fraction {cfg.val_fraction}: the stage before was trained on all but {earlier['val_fraction']}; "
            "give at most that"
        )
    for name, value in plain_config(cfg).items():
        if name in earlier and earlier[name] != value and name not in MAY_CHANGE | _PATHS | _ARCHITECTURE:
            run.say(f"overrides {name}: {earlier[name]} -> {value}")


def find_checkpoints(root: Path = Path("."), with_default: bool = True) -> dict[str, Path]:
    """Find the newest generator (by epoch) of each stage that has one, in the order of the stages.

    The one that comes with the project is the first, unless `with_default` is False.
    """
    found = {"Default": config.DEFAULT_CHECKPOINT} if with_default and config.DEFAULT_CHECKPOINT.is_file() else {}
    for stage, (folder, pattern) in _STAGE_FILES.items():
        matches = [re.fullmatch(pattern, path.name) for path in (root / folder).glob("G_*.pt")]
        numbered = [(tuple(map(int, match.groups())), match.string) for match in matches if match]
        if numbered:
            found[stage] = root / folder / max(numbered)[1]
    return found
