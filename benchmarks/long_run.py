"""Train for 10,000 steps at tiny size and watch memory, file handles, threads and processes: none of them may grow.

    python -m benchmarks.long_run [--steps 10000]

Linux only. The first half warms up; over the second, a line is fitted to the memory of this process and its workers.
Prints what was seen; exit code 1 if anything grew.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from torch import nn

import train_lab
from config import TrainConfig
from utils import optim, run
from utils.sample_data import build_sample_set

COPIES = 10  # of each of the sample set's images: 80 steps an epoch
LOOKS = 200
MAX_GROWTH = 16.0  # 10**6 bytes over the second half
TINY = {"img_size": 32, "load_size": 36, "batch_size": 4, "val_fraction": 0.2, "val_images": 8, "num_workers": 1}
TINY |= {"device": "cpu", "gen_width": 8, "gen_depth": 3, "disc_width": 8, "epochs": 1_000_000, "last_every": 100}
TINY |= {"sample_every": 20, "save_every": 20}


@dataclass(frozen=True)
class LongRunConfig:
    """Train for many steps at tiny size and watch what could grow."""

    steps: int = 10_000
    """Training steps."""


@dataclass(frozen=True)
class Moment:
    """What a process and its workers hold: resident bytes, open files of the process, threads, and processes."""

    memory: int
    files: int
    threads: int
    processes: int


def look() -> Moment:
    """Look at this process and its workers."""
    proc = Path("/proc/self")
    children = Path("/proc/self/task", str(os.getpid()), "children").read_text().split()
    pages = sum(int(Path("/proc", one, "statm").read_text().split()[1]) for one in ["self", *children])
    files, threads = len(list((proc / "fd").iterdir())), len(list((proc / "task").iterdir()))
    return Moment(pages * 4096, files, threads, 1 + len(children))


def watch(cfg: TrainConfig) -> list[Moment]:
    """Train stage 1, and look LOOKS times."""
    moments = []

    def update_ema(ema: nn.Module, network: nn.Module, step: int, decay: float) -> None:  # once a step
        optim.update_ema(ema, network, step, decay)
        if step % max(1, cfg.max_steps // LOOKS) == 0:
            moments.append(look())

    train_lab.update_ema = update_ema
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        train_lab.train(cfg)
    return moments


def long_run(cfg: LongRunConfig) -> int:
    """Train, and say what was seen."""
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        build_sample_set(work / "coco")
        photos = work / "photos"
        photos.mkdir()
        for path in (work / "coco" / "train2017").iterdir():
            for number in range(COPIES):
                (photos / f"{number}_{path.name}").hardlink_to(path)
        paths = {"images_dir": photos, "cache_dir": work, "output_dir": work / "out"}
        moments = watch(TrainConfig(**TINY, **paths, max_steps=cfg.steps))
    second = moments[len(moments) // 2 :]
    megabytes = np.array([moment.memory for moment in second]) / 1e6
    slope = np.polyfit(np.linspace(0, 1, len(second)), megabytes, 1)[0]
    run.say(f"{cfg.steps} steps; over the second half, {len(second)} looks:")
    run.say(f"memory: {megabytes.mean():.1f} MB on average, {slope:+.2f} MB by a fitted line")
    grown = slope > MAX_GROWTH
    for name in ("files", "threads", "processes"):
        first, last = (max(getattr(moment, name) for moment in part) for part in np.array_split(second, 2))
        run.say(f"{name}: at most {first} in its first part, {last} in its second")
        grown |= last > first
    return int(grown)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and give the exit code."""
    return long_run(tyro.cli(LongRunConfig, args=argv, prog="python -m benchmarks.long_run"))


if __name__ == "__main__":
    sys.exit(main())
