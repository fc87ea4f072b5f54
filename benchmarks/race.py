"""Train the textbook loop and this project for equally long on the same photographs, and score both.

    python -m benchmarks.race --images-dir TRAIN --test-dir TEST --work-dir DIR [--minutes 60] [--sides textbook]

The clock runs while a loop trains, not while it caches. Ours is the first two stages with their defaults but for the
sizes: train_lab.py for two sevenths of the time at half the size and for four from there at the whole of it, then
train_lab_finetune.py on the same photographs, each with as many steps as fit by the rate of a short trial.
On two cores the sides may run at once, each as a command of its own that is bound to one of them.
Writes <work-dir>/<side>/scores.json, beside the generators.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import DataLoader

import cache_lab
import train_lab
import train_lab_finetune
from benchmarks import textbook
from benchmarks.color_scores import score
from benchmarks.measure import in_fresh_process
from config import DEVICE, CacheConfig, FinetuneConfig, TrainConfig, TrainingConfig
from utils import checkpoint, run
from utils.files import write_json
from utils.images import list_images

BATCH_SIZE = 16  # the textbook's
TRIAL_STEPS = 40, 140  # between them the rate is taken


@dataclass(frozen=True)
class RaceConfig:
    """Train the textbook loop and this project for equally long, and score both."""

    images_dir: Path
    """Folder of photographs to train on."""
    test_dir: Path
    """Folder of photographs to score."""
    work_dir: Path
    """Folder for caches, checkpoints and scores."""
    sides: tuple[str, ...] = ("textbook", "ours")
    """Which of the two to run."""
    minutes: float = 60.0
    """Training time of each."""
    img_size: int = 128
    """Side of the training images, in pixels."""
    gen_width: int = 32
    """Channels of our generator's first level."""
    disc_width: int = 32
    """Channels of our discriminator's first layer."""
    device: str = DEVICE
    """cuda, mps or cpu."""


def run_textbook(cfg: RaceConfig, folder: Path) -> dict[str, float]:
    """Train by the textbook loop, and score it."""
    torch.manual_seed(0)
    device = run.set_up_device(cfg.device)
    textbook.cache(list_images(cfg.images_dir, mend=""), folder / "cache", cfg.img_size)
    generator, discriminator = textbook.Generator().to(device), textbook.Discriminator().to(device)
    data = textbook.CacheDataset(folder / "cache")
    loader = DataLoader(data, BATCH_SIZE, shuffle=True, drop_last=True, num_workers=2)
    started = time.perf_counter()
    steps = 0
    for _ in textbook.train(loader, generator, discriminator, device):
        steps += 1
        minutes = (time.perf_counter() - started) / 60
        if minutes >= cfg.minutes:
            break
    torch.save({"weights": generator.state_dict()}, folder / "G_textbook.pt")
    scores = score(generator.eval(), cfg.img_size, list_images(cfg.test_dir, mend=""), device)
    return {"minutes": minutes, "images": steps * BATCH_SIZE, **scores}


def run_ours(cfg: RaceConfig, folder: Path) -> dict[str, float]:
    """Train stage 1 at half the size and then at the whole, then stage 2, and score the generator."""
    common = {
        "images_dir": cfg.images_dir,
        "device": cfg.device,
        "epochs": 10**6,
        "save_every": 10**6,
        "sample_every": 10**6,
        "num_workers": 0,
        "resume": False,
    }
    networks = {"gen_width": cfg.gen_width, "disc_width": cfg.disc_width}
    legs = (  # the last number is the share of the time that is left
        (train_lab.train, TrainConfig(**common, **networks), cfg.img_size // 2, 2 / 7),
        (train_lab.train, TrainConfig(**common, **networks), cfg.img_size, 4 / 5),
        (train_lab_finetune.train, FinetuneConfig(**common), cfg.img_size, 1.0),
    )
    newest, minutes, images = None, 0.0, 0
    for number, (train, leg, img_size, share) in enumerate(legs, 1):
        load_size, cache_dir = img_size * 286 // 256, folder / f"cache_{img_size}"
        cache_lab.cache(CacheConfig(images_dir=cfg.images_dir, cache_dir=cache_dir, load_size=load_size))
        leg = dataclasses.replace(
            leg,
            cache_dir=cache_dir,
            output_dir=folder / f"checkpoints_{number}",
            init_checkpoint=newest,
            img_size=img_size,
            load_size=load_size,
        )
        trials = [timed(train, dataclasses.replace(leg, max_steps=steps))[1] for steps in TRIAL_STEPS]
        rate = (TRIAL_STEPS[1] - TRIAL_STEPS[0]) / (trials[1] - trials[0])
        steps = int(rate * (share * (cfg.minutes - minutes) * 60 - trials[0])) + TRIAL_STEPS[0]
        newest, seconds = timed(train, dataclasses.replace(leg, max_steps=steps))
        minutes += seconds / 60
        images += steps * leg.batch_size
    generator, _ = checkpoint.load_generator(newest, torch.device(cfg.device))
    scores = score(generator, cfg.img_size, list_images(cfg.test_dir, mend=""), torch.device(cfg.device))
    return {"minutes": minutes, "images": images, **scores}


def timed(train: Callable[[TrainingConfig], Path], cfg: TrainingConfig) -> tuple[Path, float]:
    """Run a stage, and give its last generator and how many seconds it took."""
    started = time.perf_counter()
    newest = train(cfg)
    return newest, time.perf_counter() - started


def race(cfg: RaceConfig) -> None:
    """Run the sides one after the other, each in a process of its own."""
    for side in cfg.sides:
        folder = cfg.work_dir / side
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        scores = in_fresh_process({"textbook": run_textbook, "ours": run_ours}[side], cfg, folder)
        write_json(folder / "scores.json", {**scores, "commit": run.git_commit()})
        run.say(f"{side}: " + "  ".join(f"{name} {value:.4g}" for name, value in scores.items()))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and give the exit code."""
    return run.run_script(RaceConfig, race, argv)


if __name__ == "__main__":
    sys.exit(main())
