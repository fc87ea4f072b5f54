"""Checkpoints: G_*.pt for inference and the next stage, D_*.pt beside it, last.pt for going on.

Every file is a dict of tensors and plain types that `torch.load(..., weights_only=True)` opens; no code in a
stranger's file is ever run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

import config
from models_lab import GeneratorUNet, PatchDiscriminator
from utils import run
from utils.exported import OnnxGenerator, load_onnx
from utils.files import open_atomically
from utils.run import UserError

FORMAT = 1
MAX_SIDE = 8192  # pixels of a training crop
_STAGE_FILES = {  # what a report calls each stage, and the files that it writes
    "Subset": (config.SUBSET_CHECKPOINTS, r"G_epoch_(\d+)\.pt"),
    "Finetune": (config.FINETUNE_CHECKPOINTS, r"G_finetune_epoch_(\d+)\.pt"),
    "Finetune+VGG": (config.FINETUNE_CHECKPOINTS, r"G_ft_fromE(\d+)_vgg_epoch_(\d+)\.pt"),
}
_PATHS = {"images_dir", "cache_dir", "output_dir", "filter_report", "init_checkpoint"}
_ARCHITECTURE = {"gen_width", "gen_depth", "disc_width", "norm", "upsample"}  # a hand-off keeps the file's own
_MAY_CHANGE = {"resume", "num_workers", "device", "last_every", "save_every", "sample_every"}


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


def plain_config(cfg: object) -> dict[str, object]:
    """Turn a configuration into a dict of plain types."""
    values = dataclasses.asdict(cfg)
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def describe(
    stage: str, position: Position, cfg: object, metrics: Mapping[str, float], vgg: str | None = None
) -> dict[str, object]:
    """Gather what a network's file says of where it comes from; `vgg` names the weights of a perceptual loss."""
    info = {"stage": stage, "epoch": position.epoch, "step": position.step, "config": plain_config(cfg)}
    return {**info, "metrics": dict(metrics), "vgg": vgg}


def save(path: Path, entries: dict[str, object]) -> None:
    """Write a dict as a checkpoint, whole or not at all."""
    with open_atomically(path) as file:
        try:
            torch.save({"format": FORMAT, **entries}, file)
        except RuntimeError as error:  # what torch makes of a full disk
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def save_network(path: Path, network: GeneratorUNet | PatchDiscriminator, info: Mapping[str, object]) -> None:
    """Write a network's weights with its architecture, `info` and the commit of the code."""
    weights = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    kind = type(network).__name__
    entries = {"kind": kind, "architecture": network.architecture, "weights": weights, **info}
    save(path, {**entries, "commit": run.git_commit()})


def save_epoch(
    folder: Path,
    name: str,
    generator: GeneratorUNet,
    discriminator: PatchDiscriminator,
    info: Mapping[str, object],
) -> Path:
    """Write G_<name>.pt and D_<name>.pt, which the next stage starts from, and give the path of the first."""
    save_network(folder / f"D_{name}.pt", discriminator, info)
    save_network(folder / f"G_{name}.pt", generator, info)
    return folder / f"G_{name}.pt"


def read_tensors(path: Path) -> object:
    """Load a file of torch's that holds tensors and plain types alone, and is what was written.

    Raises:
        Exception: of any type, as files from strangers can fail to load in any way.
    """
    if zipfile.is_zipfile(path):  # torch does not compare the checksums that it writes; its oldest format has none
        with zipfile.ZipFile(path) as archive:
            if sum(part.file_size for part in archive.infolist()) > path.stat().st_size:
                raise zipfile.BadZipFile("packed, as torch never does")
            if broken := archive.testzip():
                raise zipfile.BadZipFile(f"{broken} is damaged")
    return torch.load(path, map_location="cpu", weights_only=True)


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


def _build(network_class: type[nn.Module], path: Path, mend: str) -> tuple[nn.Module, dict]:
    entries = read(path, mend)
    try:
        if entries["kind"] != network_class.__name__:
            raise UserError(f"{path}: a file of kind {entries['kind']}, not {network_class.__name__}; {mend}")
        with torch.device("meta"):
            network = network_class(**entries["architecture"])
        weights: dict[str, Tensor] = {name: value.float() for name, value in entries.pop("weights").items()}
        for name, value in network.state_dict().items():
            if not value.is_floating_point():
                weights[name] = weights[name].to(value.dtype)
        network.load_state_dict(weights, assign=True)  # strict: no key may be missing
        if not all(value.isfinite().all() for value in weights.values()):
            raise ValueError("numbers that are not finite")
        check_entries(entries)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
        if isinstance(error, UserError) and str(error).startswith(str(path)):
            raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: its entries do not fit ({type(error).__name__}: {reason}); {mend}") from None
    return network, entries


def load_generator(path: Path, device: torch.device) -> tuple[GeneratorUNet | OnnxGenerator, dict]:
    """Build the generator of a G_*.pt file, or open an .onnx file that was exported from one, ready for inference.

    Returns:
        The generator on `device` in eval mode, and the file's other entries: architecture, stage, epoch, step,
        config, metrics, vgg, commit. ONNX computes on the CPU, whatever the device of its input.

    Raises:
        UserError: the file is missing, damaged or something else.
    """
    mend = "name a G_*.pt file that one of the training scripts wrote, or an .onnx file that export_lab.py wrote"
    if path.suffix.lower() == ".onnx":
        return load_onnx(path, mend)
    generator, info = _build(GeneratorUNet, path, mend)
    return run.place(generator, device).eval(), info


def check_entries(info: Mapping[str, object]) -> None:
    """Check what is used of a generator's file beside its weights.

    Raises:
        KeyError, TypeError, ValueError: something is missing or makes no sense.
    """
    if not 1 <= training_size(info) <= MAX_SIDE:
        raise ValueError(f"img_size {info['config']['img_size']}")
    if not (isinstance(info["stage"], str) and isinstance(info["epoch"], int) and isinstance(info["step"], int)):
        raise TypeError("stage, epoch or step")


def training_size(info: Mapping[str, dict]) -> int:
    """Give the side of the crops, in pixels, that the network of a file with these entries was trained on."""
    return int(info["config"]["img_size"])


def load_stage(path: Path, device: torch.device, run_first: str) -> tuple[GeneratorUNet, PatchDiscriminator, dict]:
    """Take over the generator and the discriminator of an earlier stage; no key of either may be missing.

    The third result is the generator's entries, with "digest", the SHA-256 of its file.

    Args:
        path: G_*.pt; the discriminator is read from the D_*.pt beside it.
        device: where to.
        run_first: the script to run when there is no such file.

    Raises:
        UserError: one of the files is missing, damaged or something else.
    """
    mend = f"run python {run_first} first, or give --init-checkpoint"
    if path.is_file() and not path.name.startswith("G_"):
        raise UserError(f"--init-checkpoint {path}: name the G_*.pt file; the D_*.pt beside it is read as well")
    generator, info = _build(GeneratorUNet, path, mend)
    discriminator, _ = _build(PatchDiscriminator, path.with_name("D_" + path.name.removeprefix("G_")), mend)
    info["digest"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return run.place(generator, device).train(), run.place(discriminator, device).train(), info


def say_hand_off(path: Path, info: Mapping[str, dict], cfg: config.TrainingConfig) -> None:
    """Print what a stage inherits from the one before and what it overrides.

    Raises:
        UserError: it would hold out images that the stage before was trained on.
    """
    run.say(f"inherits {path}: G and D after stage {info['stage']}, epoch {info['epoch']}, step {info['step']}")
    run.say(f"inherits architecture: {info['architecture']}")
    earlier = info["config"]
    if not isinstance(earlier.get("val_fraction"), float):
        raise UserError(f"{path}: does not say which images were held out; name another --init-checkpoint")
    if cfg.val_fraction > earlier["val_fraction"]:
        raise UserError(
            f"--val-fraction {cfg.val_fraction}: the stage before was trained on all but {earlier['val_fraction']}; "
            "give at most that"
        )
    for name, value in plain_config(cfg).items():
        if name in earlier and earlier[name] != value and name not in _MAY_CHANGE | _PATHS | _ARCHITECTURE:
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


def save_last(folder: Path, stage: str, cfg: object, data: str, position: Position, parts: Parts) -> None:
    """Write last.pt: all that `resume` needs to go on exactly as if the run had not stopped.

    Raises:
        UserError: a weight is not finite.
    """
    for name, part in parts.items():
        if isinstance(part, nn.Module) and not all(value.isfinite().all() for value in part.state_dict().values()):
            raise UserError(f"{name}: weights not finite after step {position.step}; give a lower --learning-rate")
    entries = {
        "kind": "last",
        "stage": stage,
        "config": plain_config(cfg),
        "data": data,
        "world_size": run.world_size(),
        "position": dataclasses.asdict(position),
        "parts": {name: part.state_dict() for name, part in parts.items()},
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    save(folder / "last.pt", entries)


def start_anew(folder: Path, networks_dir: Path, pattern: str, init_checkpoint: Path | None) -> None:
    """Remove what an earlier run wrote, if last.pt says that there was one.

    Args:
        folder: holds last.pt, best.pt, log.jsonl, samples/ and tensorboard/.
        networks_dir: holds G_*.pt and D_*.pt.
        pattern: of the names of the latter without "G_" and ".pt", as for glob.
        init_checkpoint: what the new run starts from.

    Raises:
        UserError: `init_checkpoint` is one of the files that would go.
    """
    if not run.is_main() or not (folder / "last.pt").exists():
        return
    own = [folder / name for name in ("best.pt", "log.jsonl", "last.pt")]
    networks = [path for letter in "GD" for path in networks_dir.glob(f"{letter}_{pattern}.pt")]
    if init_checkpoint and init_checkpoint.resolve() in [path.resolve() for path in networks]:
        raise UserError(f"--no-resume would remove --init-checkpoint {init_checkpoint}; choose another --output-dir")
    for name in ("samples", "tensorboard"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for path in networks + own:
        path.unlink(missing_ok=True)


def resume(folder: Path, stage: str, cfg: object, data: str, parts: Parts) -> Position:
    """Go on from last.pt where there is one: load every part and the random state, and give the position.

    Raises:
        UserError: last.pt was written by another configuration, on other images or by another number of
            processes, or is damaged.
    """
    path = folder / "last.pt"
    if not path.exists():
        return Position()
    mend = "choose another --output-dir, or start anew with --no-resume"
    entries = read(path, mend)
    try:
        now, before = plain_config(cfg), entries["config"]
        changed = [name for name in now if name not in _MAY_CHANGE and before.get(name) != now[name]]
        if entries["stage"] != stage or changed:
            what = ", ".join(f"{name} {before.get(name)} -> {now[name]}" for name in changed) or entries["stage"]
            raise UserError(f"{path}: written by another configuration ({what}); {mend}")
        if entries["data"] != data:
            raise UserError(f"{path}: the images or the weights it started from have changed since; {mend}")
        if entries["world_size"] != run.world_size():
            raise UserError(f"{path}: written by {entries['world_size']} processes, not {run.world_size()}; {mend}")
        for name, part in parts.items():
            if state := entries["parts"][name]:  # a scaler that was not needed has none
                part.load_state_dict(state)
        torch.set_rng_state(entries["random"])
        if torch.cuda.is_available() and len(entries["random_cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(entries["random_cuda"])
        position = Position(**entries["position"])
        for name, value in vars(Position()).items():
            if type(getattr(position, name)) is not type(value):
                raise TypeError(name)
        return position
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
        raise UserError(f"{path}: damaged ({type(error).__name__}); {mend}") from None
