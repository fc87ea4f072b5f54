"""last.pt, which holds everything a run needs to resume; resuming from it, and starting over without it."""

from __future__ import annotations

import dataclasses
import math
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from config import TrainingConfig
from utils import run
from utils.run import UserError, plain_config
from utils.training.checkpoints import ABSENT, MAY_CHANGE, read, save


class Stateful(Protocol):
    """What last.pt can hold: a network, an optimizer, a scaler, the running averages."""

    def state_dict(self) -> dict: ...

    def load_state_dict(self, state_dict: dict) -> object: ...


Parts = Mapping[str, Stateful]


@dataclass
class Position:
    """Where a run is: epochs done, batches done in this one, steps done in all, and the best score so far."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best_psnr: float = -math.inf


def save_last(folder: Path, stage: str, cfg: TrainingConfig, data: str, position: Position, parts: Parts) -> None:
    """Write last.pt: everything `resume` needs to continue exactly as if the run had not stopped.

    Raises:
        UserError: a weight is not finite.
    """
    for name, part in parts.items():
        if isinstance(part, nn.Module) and not all(value.isfinite().all() for value in part.state_dict().values()):
            raise UserError(f"{name}: weights not finite after step {position.step}; give a lower --learning-rate")
    device = device_of(parts)  # its random state is that of every process: each draws the same
    entries = {
        "kind": "last",
        "stage": stage,
        "config": plain_config(cfg),
        "data": data,
        "world_size": run.world_size(),
        "position": dataclasses.asdict(position),
        "parts": {name: part.state_dict() for name, part in parts.items()},
        "random": torch.get_rng_state(),
        "random_cuda": [torch.cuda.get_rng_state(device)] if device.type == "cuda" else [],
        "random_mps": [torch.mps.get_rng_state()] if device.type == "mps" else [],
    }
    save(folder / "last.pt", entries)


def device_of(parts: Parts) -> torch.device:
    """Find where the networks are."""
    devices = (w.device for part in parts.values() if isinstance(part, nn.Module) for w in part.parameters())
    return next(devices, torch.device("cpu"))


def is_own(name: str, saved_as: str) -> bool:
    """Tell whether a run gives its networks such a name, from this or another epoch of the stage before.

    Args:
        name: of a file.
        saved_as: the run's names without "G_" and ".pt", with the epoch as a field.
    """
    pattern = "[GD]_" + re.sub(r"(?<=fromE)\d+|\{.*?\}", r"\\d+", saved_as) + r"\.pt"
    return re.fullmatch(pattern, name) is not None


def start_anew(folder: Path, stage: str, networks_dir: Path, saved_as: str) -> None:
    """Delete what an earlier run of this stage wrote, if there is a last.pt.

    Args:
        folder: holds last.pt, best.pt, log.jsonl, samples/ and tensorboard/.
        stage: name of the stage.
        networks_dir: holds G_*.pt and D_*.pt.
        saved_as: names of these networks, as `is_own` takes them.

    Raises:
        UserError: last.pt is of another stage.
    """
    last = folder / "last.pt"
    if not run.is_main() or not last.exists():
        return
    try:
        earlier = read(last, "")["stage"]
    except (UserError, KeyError):
        earlier = stage  # damaged, which is what --no-resume mends
    _check_stage(last, earlier, stage)
    own = [folder / name for name in ("best.pt", "log.jsonl", "losses.png", "last.pt")]
    networks = [path for path in networks_dir.glob("*.pt") if is_own(path.name, saved_as)]
    for name in ("samples", "tensorboard"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for path in networks + own:
        path.unlink(missing_ok=True)


def _check_stage(last: Path, earlier: str, stage: str) -> None:
    if earlier != stage:
        raise UserError(f"{last}: of stage {earlier}, and this is {stage}; choose another --output-dir")


def resume(folder: Path, stage: str, cfg: TrainingConfig, data: str, parts: Parts) -> Position:
    """Resume from last.pt if it exists: load every part and the random state, and give the position.

    Raises:
        UserError: last.pt was written by another stage or configuration, on other images or by another number of
            processes, or is damaged.
    """
    path = folder / "last.pt"
    if not path.exists():
        return Position()
    mend = "choose another --output-dir, or start over with --no-resume"
    entries = read(path, mend)
    try:
        _check_stage(path, entries["stage"], stage)
        now, before = plain_config(cfg), {**ABSENT, **entries["config"]}
        changed = [name for name in now if name not in MAY_CHANGE and before.get(name) != now[name]]
        if changed:
            what = ", ".join(f"{name} {before.get(name)} -> {now[name]}" for name in changed)
            raise UserError(f"{path}: written by another configuration ({what}); {mend}")
        if entries["data"] != data:
            raise UserError(f"{path}: the images or the weights it started from have changed since; {mend}")
        if entries["world_size"] != run.world_size():
            raise UserError(f"{path}: written by {entries['world_size']} processes, not {run.world_size()}; {mend}")
        for name, part in parts.items():
            if state := entries["parts"][name]:  # a scaler that was not needed has none
                part.load_state_dict(state)
        torch.set_rng_state(entries["random"])
        device = device_of(parts)
        if device.type == "cuda" and entries["random_cuda"]:
            torch.cuda.set_rng_state(entries["random_cuda"][0], device)
        if device.type == "mps" and entries.get("random_mps"):
            torch.mps.set_rng_state(entries["random_mps"][0])
        position = Position(**entries["position"])
        for name, value in vars(Position()).items():
            if type(getattr(position, name)) is not type(value):
                raise TypeError(name)
        return position
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
        raise UserError(f"{path}: damaged ({type(error).__name__}); {mend}") from None
