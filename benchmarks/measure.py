"""Timing in turns, whole processes with their peak memory, and what this machine can do at best."""

import contextlib
import multiprocessing
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
import tyro

from utils import run

ROOT = Path(__file__).resolve().parent.parent
LAUNCHER = """
import os, subprocess, sys, time
started = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=sys.stderr)
_, status, usage = os.wait4(process.pid, 0)
print(os.waitstatus_to_exitcode(status), time.perf_counter() - started, usage.ru_maxrss)
"""  # a process starts with the peak memory of its parent, so the parent has to be small
Value = TypeVar("Value")


@dataclass(frozen=True)
class Row:
    """One line of the table; `ratio` says how many times as good as the textbook we are, `target` what we aim at."""

    part: str
    unit: str
    ours: float
    textbook: float | None = None
    ratio: float | None = None
    target: float | None = None
    note: str = ""


def compare(part: str, unit: str, pair: list[float], target: float | None, note: str) -> Row:
    """Compare a figure of the textbook with ours; less is better."""
    return Row(part, unit, pair[1], pair[0], pair[0] / pair[1], target, note)


def medians(turns: int, *functions: Callable[[], float]) -> list[float]:
    """Call functions A B A B, `turns` times, and return the median of each."""
    rounds = [[function() for function in functions] for _ in range(turns)]
    return list(map(statistics.median, zip(*rounds, strict=True)))


def markdown(titles: Sequence[str], rows: Sequence[Sequence[str]], last: str = "---:") -> str:
    """Lay cells out as a Markdown table, right-aligned but for the first column and, with "---", the last one."""
    lines = [titles, ["---", *["---:"] * (len(titles) - 2), last], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def in_fresh_process(function: Callable[..., Value], *arguments: object) -> Value:
    """Call a function in a process of its own, so that no side inherits the settings of the other."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def repeat(images: Sequence[Path], count: int, folder: Path) -> Path:
    """Fill a folder with `count` copies of JPEGs under new names."""
    folder.mkdir(parents=True)
    for number in range(count):
        shutil.copyfile(images[number % len(images)], folder / f"{number:06d}.jpg")
    return folder


def make_main(config_class: type[Value], function: Callable[[Value], object]) -> Callable[..., int]:
    """Make the `main(argv=None)` of a script: it runs the command line and returns the exit code."""
    return lambda argv=None: run.run_script(config_class, function, argv)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Drop everything that this process prints."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


def seconds(function: Callable[[], object]) -> float:
    """Time one call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def words(*parts: object) -> list[str]:
    """Make a command line: strings are split at blanks, and everything else, such as a path, is one word."""
    return [word for part in parts for word in (part.split() if isinstance(part, str) else [str(part)])]


def parse(config_class: type[Value], *parts: object) -> Value:
    """Make the configuration of a script from its flags, as `words` takes them."""
    return tyro.cli(config_class, args=words(*parts))


def run_python(*parts: object) -> tuple[float, float]:
    """Run a Python command line in the project's root; return the seconds and the peak memory, in 10**6 bytes."""
    command = [sys.executable, *words(*parts)]
    launch = [sys.executable, "-c", LAUNCHER, *command]
    done = subprocess.run(launch, cwd=ROOT, check=True, capture_output=True, text=True)
    code, took, peak = map(float, done.stdout.split())
    if code:
        raise RuntimeError(f"{command} returned {code:.0f}:\n{done.stderr}")
    return took, peak * (1 if sys.platform == "darwin" else 1024) / 1e6


def matmul_rate(device: torch.device, dtype: torch.dtype, size: int = 4096) -> float:
    """Measure the floating-point operations per second of a square matrix product: the best of five."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

    def product() -> float:  # an element on the CPU: a GPU has to be done
        return (a @ b)[0, 0].item()

    return 2 * size**3 / min(seconds(product) for _ in range(5))


def machine_name(device: torch.device) -> str:
    """Name the machine for a file name: its GPU, or its processor and number of cores."""
    cpu_info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = [*re.findall(r"model name\s*:\s*(.+)", cpu_info), platform.processor() or platform.machine()]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{models[0]} {os.cpu_count()} cores"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
