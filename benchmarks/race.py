"""Train the textbook loop and this project for equally long on the same photographs, and score all.

    python -m benchmarks.race --images-dir TRAIN --test-dir TEST --work-dir DIR [--minutes 60] [--sides textbook]

The clock runs while a loop trains, not while it caches. "scratch" is train_lab.py --encoder none --gen-width 32 for
two sevenths of the time at half the size and for four sevenths at the full size, then train_lab_finetune.py;
"pretrained" is train_lab.py with its encoder for six sevenths, then train_lab_finetune.py. All else but the sizes is
as in config.py, or what did best in an hour (docs/RECIPE.md); a short trial of each leg says how many steps fit. Each
side is scored at the working size that suits it: "pretrained" at 5/4 of the size of its training images, the others
at that size. On two cores two sides may run at once, each as a command bound to one of them. Writes
<work-dir>/<side>/scores.json, beside the generators.
"""

import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import Literal

import torch

import cache_lab
import train_lab
import train_lab_finetune
from benchmarks import textbook
from benchmarks.color_scores import score
from benchmarks.measure import in_fresh_process, make_main, parse
from config import DEVICE, CacheConfig, FinetuneConfig, TrainConfig, TrainingConfig
from utils import run
from utils.files import list_images, write_json
from utils.training import checkpoints

BATCH_SIZE = 16  # of both sides
TRIAL_STEPS = 100, 500  # the rate is taken between them; shorter trials ran up to a sixth faster than the hour
SCRATCH, SCRATCH_2 = "--learning-rate 2e-4 --scale-jitter 0", "--learning-rate 5e-5 --scale-jitter 0.1"  # the stages'
PRETRAINED, PRETRAINED_2 = "--dropout 0 --scale-jitter 0", "--dropout 0 --learning-rate 5e-5 --scale-jitter 0.1"


@dataclass(frozen=True)
class RaceConfig:
    """Train the textbook loop and this project for equally long, and score all."""

    images_dir: Path  # Folder of photographs to train on.
    test_dir: Path  # Folder of photographs to score.
    work_dir: Path  # Folder for caches, checkpoints and scores.
    sides: tuple[Literal["textbook", "scratch", "pretrained"], ...] = ("textbook", "scratch", "pretrained")
    minutes: float = 60.0  # Training time of each.
    img_size: int = 128  # Side of the training images, in pixels.
    networks: str = "--disc-width 32"  # Flags of train_lab.py for both, given as --networks="...".
    device: str = DEVICE  # cuda, mps or cpu.


def run_textbook(cfg: RaceConfig, folder: Path, device: torch.device) -> tuple[torch.nn.Module, float, int]:
    """Train by the textbook loop; return the generator, the minutes, and the number of steps."""
    torch.manual_seed(0)
    textbook.cache(list_images(cfg.images_dir), folder / "cache", cfg.img_size)
    generator = textbook.Generator().to(device)
    started, steps = perf_counter(), 0
    for _ in textbook.train(folder / "cache", BATCH_SIZE, generator, device):
        steps += 1
        if perf_counter() - started >= 60 * cfg.minutes:
            break
    took = perf_counter() - started
    torch.save({"weights": generator.state_dict()}, folder / "G_textbook.pt")
    return generator.eval(), took / 60, steps


def timed(script: ModuleType, cfg: TrainingConfig, steps: int) -> tuple[Path, float]:
    """Run a stage for some steps, and return its last generator and the seconds."""
    started = perf_counter()
    newest = script.train(replace(cfg, max_steps=steps))
    return newest, perf_counter() - started


def run_ours(cfg: RaceConfig, side: str, folder: Path, device: torch.device) -> tuple[torch.nn.Module, float, int]:
    """Train stage 1, from scratch at half the size first, then stage 2; return the same."""
    first = f"{SCRATCH} {cfg.networks} --encoder none --gen-width 32"
    legs = [  # the last number is the share of the time that is left
        (train_lab, TrainConfig, first, cfg.img_size // 2, 2 / 7),
        (train_lab, TrainConfig, SCRATCH, cfg.img_size, 4 / 5),
        (train_lab_finetune, FinetuneConfig, SCRATCH_2, cfg.img_size, 1.0),
    ]
    if side == "pretrained":
        legs = [
            (train_lab, TrainConfig, f"{PRETRAINED} {cfg.networks}", cfg.img_size, 6 / 7),
            (train_lab_finetune, FinetuneConfig, PRETRAINED_2, cfg.img_size, 1.0),
        ]
    flags = f"--epochs 1000000 --save-every 1000000 --sample-every 1000000 --batch-size {BATCH_SIZE} --num-workers 0"
    flags += f" --device {cfg.device} --no-resume"
    init: tuple[object, ...] = ()
    spent, all_steps = 0.0, 0
    for number, (script, config_class, networks, img_size, share) in enumerate(legs):
        load_size, cache_dir = img_size * 286 // 256, folder / f"cache_{img_size}"
        cache_lab.cache(CacheConfig(images_dir=cfg.images_dir, cache_dir=cache_dir, load_size=load_size))
        sizes = f"--img-size {img_size} --load-size {load_size} {networks}"
        paths = ("--images-dir", cfg.images_dir, "--cache-dir", cache_dir, "--output-dir", folder / f"leg_{number}")
        leg: TrainingConfig = parse(config_class, flags, sizes, *paths, *init)
        few, many = (timed(script, leg, steps)[1] for steps in TRIAL_STEPS)
        rate = (TRIAL_STEPS[1] - TRIAL_STEPS[0]) / (many - few)
        steps = max(1, int(rate * (share * (60 * cfg.minutes - spent) - few)) + TRIAL_STEPS[0])
        newest, took = timed(script, leg, steps)
        init, spent, all_steps = ("--init-checkpoint", newest), spent + took, all_steps + steps
    return checkpoints.load_generator(newest, device)[0], spent / 60, all_steps


def run_side(cfg: RaceConfig, side: str, folder: Path) -> dict[str, float]:
    """Train one side and score its generator."""
    device = run.set_up_device(cfg.device)
    trained = run_textbook(cfg, folder, device) if side == "textbook" else run_ours(cfg, side, folder, device)
    generator, minutes, steps = trained
    size = cfg.img_size * 5 // 4 if side == "pretrained" else cfg.img_size
    scores = score(generator, size, list_images(cfg.test_dir), device)
    return {"minutes": minutes, "images_seen": steps * BATCH_SIZE, "working_size": size, **scores}


def race(cfg: RaceConfig) -> None:
    """Run the sides one after the other, each in a process of its own."""
    for side in cfg.sides:
        folder = cfg.work_dir / side
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        scores = in_fresh_process(run_side, cfg, side, folder)
        write_json(folder / "scores.json", {**scores, "commit": run.git_commit()})
        run.say(f"{side}: " + "  ".join(f"{name} {value:.4g}" for name, value in scores.items()))


main = make_main(RaceConfig, race)

if __name__ == "__main__":
    sys.exit(main())
