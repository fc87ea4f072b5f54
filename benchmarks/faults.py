"""Kill every script at random moments, run the same command again, and compare with a run that nothing disturbed.

    python -m benchmarks.faults [--kills 200] [--work-dir DIR]

Works on the sample set of `utils.sample_data` with tiny networks. After each kill every file that is there must be
whole; in the end the output must be that of the undisturbed run: the same images, the same cache byte for byte, the
same report, and of training the same weights bit for bit. Prints the counts and the failures; exit code 1 if any.

The scripts are forked from this process, which has imported everything, so that the kills meet their work.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import importlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from PIL import Image

from benchmarks.measure import ROOT
from utils import run

TRAINING = (
    "--img-size 32 --load-size 36 --batch-size 4 --val-fraction 0.2 --num-workers 1 --device cpu --last-every 3"
)
ENDINGS = {".md": "\n", ".html": "</html>"}
NETWORKS = "--gen-width 8 --gen-depth 3 --disc-width 8"


@dataclass(frozen=True)
class FaultsConfig:
    """Kill every script at random moments and run it again."""

    kills: int = 200
    """How many processes to kill, over all scripts."""
    scripts: tuple[str, ...] = ()
    """Which of them; all when none is named."""
    work_dir: Path | None = None
    """Folder to work in; a temporary one when not given."""
    seed: int = 0
    """Of the moments."""


@dataclass(frozen=True)
class Subject:
    """A command line, without its last option, and the option and the folder that its output goes to."""

    name: str
    arguments: tuple[str, ...]
    output_flag: str
    output: str

    def command(self, folder: Path) -> list[str]:
        """Complete the command line for a folder to work in."""
        return [*self.arguments, self.output_flag, str(folder / self.output)]


def subjects(work: Path) -> list[Subject]:
    """Prepare the inputs, and list the scripts with their commands."""
    coco = work / "coco"
    if not coco.exists():
        subprocess.run(
            [sys.executable, "-m", "utils.sample_data", "--output-dir", str(coco)],
            cwd=ROOT,
            check=True,
            capture_output=True,
        )
    photos = str(coco / "train2017")
    train = f"--images-dir {photos} --cache-dir {work / 'none'} {TRAINING}".split()
    later = [*train, "--filter-report", str(work / "none.json")]
    first = Subject(
        "train_lab.py", ("train_lab.py", *train, *NETWORKS.split(), "--epochs", "2"), "--output-dir", "out"
    )
    subprocess.run([sys.executable, *first.command(work / "stage1")], cwd=ROOT, check=True, capture_output=True)
    stage1 = work / "stage1" / "out" / "G_epoch_002.pt"
    second = ("train_lab_finetune.py", *later, "--epochs", "2", "--init-checkpoint", str(stage1))
    third = ("train_vgg.py", *later, "--vgg-weights", "stand-in", "--init-checkpoint", str(stage1))
    cache = ("cache_lab.py", "--images-dir", photos, "--load-size", "72", "--shard-images", "5")
    infer = ("infer_lab.py", photos, str(stage1), "--compare", "--device", "cpu")
    metrics = ("calculate_metrics.py", "--images-dir", str(coco / "test2017"), "--checkpoint", "Tiny", str(stage1))
    metrics += ("--inception-weights", "none", "--lpips-weights", "none")
    return [
        first,
        Subject("train_lab_finetune.py", second, "--output-dir", "out"),
        Subject("train_vgg.py", third, "--output-dir", "out"),
        Subject("filter.py", ("filter.py", "--data-root", str(coco)), "--output-dir", "out"),
        Subject("cache_lab.py", cache, "--cache-dir", "out"),
        Subject("infer_lab.py", infer, "--output-dir", "out"),
        Subject("calculate_metrics.py", metrics, "--output-dir", "out"),
    ]


def files_in(folder: Path) -> list[Path]:
    """List what a run has finished: all files but temporary ones, and TensorBoard's, which grow."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [p for p in files if ".tmp" not in p.relative_to(folder).as_posix() and "tensorboard" not in p.parts]


def check_whole(path: Path) -> None:
    """Open a file as its kind.

    Raises:
        Exception: of any type, where it is not whole.
    """
    if path.suffix == ".pt":
        torch.load(path, map_location="cpu", weights_only=True)
    elif path.suffix in (".png", ".jpg"):
        with Image.open(path) as image:
            image.load()
    elif path.suffix == ".json":
        json.loads(path.read_text())
    elif path.suffix == ".jsonl":
        for line in path.read_text().splitlines():
            json.loads(line)
    elif path.suffix == ".csv":
        rows = list(csv.reader(path.read_text().splitlines()))
        if not rows or any(len(row) != len(rows[0]) for row in rows):
            raise ValueError("rows of different length")
    elif path.suffix in ENDINGS and not path.read_text().endswith(ENDINGS[path.suffix]):
        raise ValueError("cut short")


def tensors_in(value: object) -> Iterator[bytes]:
    """Give everything in nested dicts and lists as bytes, in their order."""
    if isinstance(value, torch.Tensor):
        yield value.contiguous().numpy().tobytes()
    elif isinstance(value, dict):
        yield from (part for key, entry in value.items() for part in (repr(key).encode(), *tensors_in(entry)))
    elif isinstance(value, list | tuple):
        yield from (part for entry in value for part in tensors_in(entry))
    else:
        yield repr(value).encode()


def fingerprint(path: Path) -> str:
    """Identify what a file says, less what differs from run to run: file names and times."""
    if path.suffix == ".pt":
        entries = torch.load(path, map_location="cpu", weights_only=True)
        tensors = tensors_in(entries.get("weights") or [entries["parts"], entries["random"], entries["position"]])
        return hashlib.sha256(b"".join(tensors)).hexdigest()
    data = path.read_bytes()
    return hashlib.sha256(data.replace(str(path.parent).encode(), b"")).hexdigest()


def fingerprints(folder: Path) -> dict[str, str]:
    """Identify everything that a run has written; temporary files count by their names."""
    found = {path.relative_to(folder).as_posix(): fingerprint(path) for path in files_in(folder)}
    return found | {path.relative_to(folder).as_posix(): "left over" for path in folder.rglob("*.tmp*")}


def _call(command: list[str], log: Path) -> None:
    """Be a script, in a process of its own whose output goes to a file."""
    os.setsid()
    with open(log, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    sys.argv = command
    sys.exit(importlib.import_module(command[0].removesuffix(".py")).main(command[1:]))


def run_script(command: list[str], log: Path, kill_after: float | None = None) -> int:
    """Run a script, and kill it with its workers after some seconds if it is still there; give the exit code."""
    importlib.import_module(command[0].removesuffix(".py"))
    process = multiprocessing.get_context("fork").Process(target=_call, args=(command, log))
    process.start()
    process.join(kill_after)
    if process.is_alive():
        with contextlib.suppress(ProcessLookupError):  # before it has become the leader of its group
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()
    return process.exitcode


def torment(subject: Subject, kills: int, work: Path, draw: random.Random) -> tuple[int, list[str]]:
    """Kill a script some times in all, in runs of up to three kills each; give their number and what went wrong."""
    whole, log = work / "whole", work / "log.txt"
    work.mkdir(parents=True)
    started = time.perf_counter()
    if run_script(subject.command(whole), log):
        return 0, [f"{subject.name}: fails undisturbed: {log.read_text()[-500:]}"]
    took = time.perf_counter() - started
    expected = fingerprints(whole)
    killed, failures = 0, []
    while killed < kills:
        folder = work / "killed"
        shutil.rmtree(folder, ignore_errors=True)
        for _ in range(min(draw.randint(1, 3), kills - killed)):
            killed += run_script(subject.command(folder), log, took * draw.uniform(0, 1)) == -signal.SIGKILL
            for path in files_in(folder):
                try:
                    check_whole(path)
                except Exception as error:
                    failures.append(f"{subject.name}: {path.name} is not whole after a kill: {error!r}")
        code = run_script(subject.command(folder), log)
        found = fingerprints(folder)
        if code:
            failures.append(f"{subject.name}: exit code {code} when run again: {log.read_text()[-500:]}")
        elif found != expected:
            differing = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
            failures.append(f"{subject.name}: differs from the undisturbed run: {differing}")
    return killed, failures


def torment_all(cfg: FaultsConfig) -> int:
    """Torment every script and say what was found."""
    draw = random.Random(cfg.seed)
    failures, total = [], 0
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as temporary:
        work = cfg.work_dir or Path(temporary)
        chosen = [subject for subject in subjects(work) if not cfg.scripts or subject.name in cfg.scripts]
        for i, subject in enumerate(chosen):
            share = cfg.kills * (i + 1) // len(chosen) - cfg.kills * i // len(chosen)
            killed, wrong = torment(subject, share, work / subject.name, draw)
            failures, total = failures + wrong, total + killed
            run.say(f"{subject.name}: {killed} kills, {len(wrong)} failures")
    run.say(f"in all {total} kills, {len(failures)} failures")
    for failure in failures:
        run.say(failure)
    return 1 if failures else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and give the exit code."""
    return torment_all(tyro.cli(FaultsConfig, args=argv, prog="python -m benchmarks.faults"))


if __name__ == "__main__":
    sys.exit(main())
