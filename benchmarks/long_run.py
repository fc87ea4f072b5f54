"""Train for 10,000 steps at tiny size and watch memory, file handles, threads and processes: none of them may grow.

    python -m benchmarks.long_run [--steps 10000]

Linux only. The first half warms up; over the second, a line is fitted to the memory of this process and its workers.
Prints what it saw; exit code 1 if anything grew.
"""

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import train_lab
from benchmarks.measure import make_main, parse, repeat
from benchmarks.training import after_each_step
from config import TrainConfig
from utils import run
from utils.data.sample_set import build_sample_set

LOOKS = 200
MAX_GROWTH = 16.0  # 10**6 bytes over the second half
COUNTS = ("open files", "threads", "processes")
FLAGS = """--img-size 32 --load-size 36 --batch-size 4 --encoder none --gen-width 8 --gen-depth 3
    --disc-width 8 --epochs 1000000
--val-fraction 0.2 --val-images 8 --last-every 100 --sample-every 20 --save-every 20 --num-workers 1 --device cpu"""


@dataclass(frozen=True)
class LongRunConfig:
    """Train for many steps at tiny size and watch what could grow."""

    steps: int = 10_000  # Training steps.


def look() -> tuple[int, ...]:
    """Give the resident bytes of this process and its workers, and the COUNTS."""
    children = Path("/proc/self/task", str(os.getpid()), "children").read_text().split()
    pages = sum(int(Path("/proc", one, "statm").read_text().split()[1]) for one in ["self", *children])
    files, threads = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
    return pages * os.sysconf("SC_PAGE_SIZE"), files, threads, 1 + len(children)


def long_run(cfg: LongRunConfig) -> None:
    """Train, print what was seen, and exit with code 1 if anything grew."""
    looks = []

    def notice(step: int) -> None:
        if step % max(1, cfg.steps // LOOKS) == 0:
            looks.append(look())

    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        build_sample_set(work / "coco")
        photos = repeat(sorted((work / "coco" / "train2017").iterdir()), 390, work / "photos")  # 80 steps an epoch
        paths = ("--images-dir", photos, "--cache-dir", work, "--output-dir", work / "out")
        with after_each_step(notice):
            train_lab.train(parse(TrainConfig, FLAGS, f"--max-steps {cfg.steps}", *paths))
    second = np.array(looks[len(looks) // 2 :])  # (looks, 4)
    megabytes = second[:, 0] / 1e6
    slope = np.polyfit(np.linspace(0, 1, len(second)), megabytes, 1)[0]
    run.say(f"{cfg.steps} steps; over the second half, {len(second)} looks:")
    run.say(f"memory: {megabytes.mean():.1f} MB on average, {slope:+.2f} MB by a fitted line")
    before, after = (part[:, 1:].max(axis=0) for part in np.array_split(second, 2))
    for name, first, last in zip(COUNTS, before, after, strict=True):
        run.say(f"{name}: at most {first} in its first part, {last} in its second")
    if slope > MAX_GROWTH or (after > before).any():
        sys.exit(1)


main = make_main(LongRunConfig, long_run)

if __name__ == "__main__":
    sys.exit(main())
