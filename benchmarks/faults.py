"""Kill every script at random moments, run the same command again, and compare with an undisturbed run.

    python -m benchmarks.faults [--kills 200] [--work-dir DIR]

Works on the sample set with tiny networks. After each kill every file must be whole; in the end the output must be
that of the undisturbed run: the same images, report and cache byte for byte, and in training the same weights bit for
bit. The scripts are forked from this process, which has imported everything, so that the kills meet their work.
Prints the counts and the failures; exit code 1 if any.
"""

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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from benchmarks.measure import ROOT, make_main, words
from utils import run
from utils.data.sample_set import build_sample_set

TRAIN = "--img-size 32 --load-size 36 --batch-size 4 --val-fraction 0.2 --num-workers 1 --last-every 3 --device cpu"
NO_WEIGHTS = "--inception-weights none --lpips-weights none"
ENDINGS = {".md": "\n", ".html": "</html>"}


@dataclass(frozen=True)
class FaultsConfig:
    """Kill every script at random moments and run it again."""

    kills: int = 200  # How many processes to kill, over all scripts.
    scripts: tuple[str, ...] = ()  # Which of them; all when none is named.
    work_dir: Path | None = None  # Folder to work in; a temporary one when not given.
    seed: int = 0  # Of the moments.


@dataclass(frozen=True)
class Subject:
    """A script, its arguments, and the flag of its output folder."""

    name: str
    arguments: list[str]
    output_flag: str = "--output-dir"

    def command(self, folder: Path) -> list[str]:
        """Complete the command line, for output in a folder."""
        return [self.name, *self.arguments, self.output_flag, str(folder / "out")]


def subjects(work: Path) -> list[Subject]:
    """Prepare the inputs, and list the scripts with their commands."""
    coco = work / "coco"
    if not coco.exists():
        build_sample_set(coco)
    photos, test = coco / "train2017", coco / "test2017"
    train = words(TRAIN, "--images-dir", photos, "--cache-dir", work / "none")
    tiny = words("--encoder none --gen-width 8 --gen-depth 3 --disc-width 8 --epochs 2")
    first = Subject("train_lab.py", tiny + train)
    command = [sys.executable, *first.command(work / "stage1")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    stage1 = work / "stage1" / "out" / "G_epoch_002.pt"
    later = words("--filter-report", work / "none.json", "--init-checkpoint", stage1) + train
    return [
        first,
        Subject("train_lab_finetune.py", words("--epochs 2") + later),
        Subject("train_vgg.py", words("--vgg-weights stand-in") + later),
        Subject("filter.py", words("--data-root", coco)),
        Subject("cache_lab.py", words("--load-size 72 --shard-images 5 --images-dir", photos), "--cache-dir"),
        Subject("infer_lab.py", words(photos, stage1, "--compare --device cpu")),
        Subject("calculate_metrics.py", words("--images-dir", test, NO_WEIGHTS, "--checkpoint Tiny", stage1)),
    ]


def files_in(folder: Path) -> list[Path]:
    """List what a run has finished: all files but temporary ones, and TensorBoard's, which grow."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [p for p in files if ".tmp" not in p.relative_to(folder).as_posix() and "tensorboard" not in p.parts]


def check_whole(path: Path) -> None:
    """Open a file as its kind; an exception, of any type, says that it is not whole."""
    if path.suffix == ".pt":
        torch.load(path, map_location="cpu", weights_only=True)
    elif path.suffix in (".png", ".jpg"):
        Image.open(path).load()
    elif path.suffix in (".json", ".jsonl"):
        text = path.read_text()
        for part in text.splitlines() if path.suffix == ".jsonl" else [text]:
            json.loads(part)
    elif path.suffix == ".csv" and len({len(row) for row in csv.reader(path.read_text().splitlines())}) != 1:
        raise ValueError("empty, or rows of different length")
    elif path.suffix in ENDINGS and not path.read_text().endswith(ENDINGS[path.suffix]):
        raise ValueError("cut short")


def tensors_in(value: object) -> Iterator[bytes]:
    """Yield everything in nested dicts and lists as bytes, in their order."""
    if isinstance(value, torch.Tensor):
        yield value.contiguous().numpy().tobytes()
    elif isinstance(value, dict):
        yield from (part for key, entry in value.items() for part in (repr(key).encode(), *tensors_in(entry)))
    elif isinstance(value, list | tuple):
        yield from (part for entry in value for part in tensors_in(entry))
    else:
        yield repr(value).encode()


def fingerprints(folder: Path) -> dict[str, str]:
    """Hash every file that a run has written, without its folder's name, and .pt files by their state alone."""
    found = {path.relative_to(folder).as_posix(): "left over" for path in folder.rglob("*.tmp*")}
    for path in files_in(folder):
        data = path.read_bytes().replace(str(path.parent).encode(), b"")
        if path.suffix == ".pt":
            entries = torch.load(path, map_location="cpu", weights_only=True)
            state = entries.get("weights") or [entries["parts"], entries["random"], entries["position"]]
            data = b"".join(tensors_in(state))
        found[path.relative_to(folder).as_posix()] = hashlib.sha256(data).hexdigest()
    return found


def _call(command: list[str], log: Path) -> None:
    """Be a script, in a process of its own whose output goes to a file."""
    os.setsid()
    with open(log, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    sys.argv = command
    sys.exit(importlib.import_module(command[0].removesuffix(".py")).main(command[1:]))


def run_script(command: list[str], log: Path, kill_after: float | None = None) -> int | None:
    """Run a script, and kill it with its workers after some seconds if it is still there; return the exit code."""
    importlib.import_module(command[0].removesuffix(".py"))
    process = multiprocessing.get_context("fork").Process(target=_call, args=(command, log))
    process.start()
    process.join(kill_after)
    if process.is_alive() and process.pid:
        with contextlib.suppress(ProcessLookupError):  # before it has become the leader of its group
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()
    return process.exitcode


def torment(subject: Subject, kills: int, work: Path, draw: random.Random) -> Iterator[str]:
    """Kill a script `kills` times, up to three times before each complete run; yield what went wrong."""
    whole, killed, log = work / "whole", work / "killed", work / "log.txt"
    work.mkdir(parents=True)
    started = time.perf_counter()
    if run_script(subject.command(whole), log):
        raise run.UserError(f"{subject.name} fails undisturbed: {log.read_text()[-500:]}")
    took, expected = time.perf_counter() - started, fingerprints(whole)
    while kills:
        shutil.rmtree(killed, ignore_errors=True)
        for _ in range(min(draw.randint(1, 3), kills)):
            kills -= run_script(subject.command(killed), log, took * draw.uniform(0, 1)) == -signal.SIGKILL
            for path in files_in(killed):
                try:
                    check_whole(path)
                except Exception as error:
                    yield f"{subject.name}: {path.name} is not whole after a kill: {error!r}"
        code, found = run_script(subject.command(killed), log), fingerprints(killed)
        if code:
            yield f"{subject.name}: exit code {code} when run again: {log.read_text()[-500:]}"
        elif found != expected:
            differing = sorted({name for name, _ in found.items() ^ expected.items()})
            yield f"{subject.name}: differs from the undisturbed run: {differing}"


def torment_all(cfg: FaultsConfig) -> None:
    """Torment every script, print what was found, and exit with code 1 if anything failed."""
    draw = random.Random(cfg.seed)
    failures: list[str] = []
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as temporary:
        work = cfg.work_dir or Path(temporary)
        every = subjects(work)
        if unknown := set(cfg.scripts) - {subject.name for subject in every}:
            names = ", ".join(subject.name for subject in every)
            raise run.UserError(f"--scripts {' '.join(sorted(unknown))}: give some of {names}")
        chosen = [subject for subject in every if not cfg.scripts or subject.name in cfg.scripts]
        for i, subject in enumerate(chosen):
            kills = cfg.kills * (i + 1) // len(chosen) - cfg.kills * i // len(chosen)
            wrong = list(torment(subject, kills, work / subject.name, draw))
            run.say(f"{subject.name}: {kills} kills, {len(wrong)} failures")
            failures += wrong
    print(f"in all {cfg.kills} kills, {len(failures)} failures", *failures, sep="\n")
    if failures:
        sys.exit(1)


main = make_main(FaultsConfig, torment_all)

if __name__ == "__main__":
    sys.exit(main())
