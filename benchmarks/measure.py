"""Timing in pairs, peak memory, and what this machine can do at best."""

from __future__ import annotations

import multiprocessing
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

ROOT = Path(__file__).resolve().parent.parent

Result = TypeVar("Result")


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        part: what was measured.
        unit: of both figures.
        ours: the project's figure.
        textbook: the yardstick's, where there is one.
        ratio: how many times as good ours is.
        target: the ratio that was aimed at.
        note: conditions.
    """

    part: str
    unit: str
    ours: float
    textbook: float | None = None
    ratio: float | None = None
    target: float | None = None
    note: str = ""


def compare(
    part: str, unit: str, textbook: Sequence[float], ours: Sequence[float], target: float | None, note: str
) -> Row:
    """Make a line of two series, taken in turns, of which less is better: their medians and the ratio of these."""
    a, b = statistics.median(textbook), statistics.median(ours)
    return Row(part, unit, b, a, a / b, target, note)


def in_turns(turns: int, *functions: Callable[[], float], warm_up: bool = True) -> list[list[float]]:
    """Call functions A B A B, `turns` times (and once before, unless `warm_up` is False); give what each returned."""
    rounds = [[function() for function in functions] for _ in range(turns + warm_up)]
    return [list(column) for column in zip(*rounds[warm_up:], strict=True)]


def in_fresh_process(function: Callable[..., Result], *arguments: object) -> Result:
    """Call a function in a process of its own, so that no side inherits what the other has set."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def seconds(function: Callable[[], object]) -> float:
    """Time one call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def run_python(*arguments: object) -> float:
    """Run a command line of Python in the project's root, and give its seconds as a whole process.

    Raises:
        RuntimeError: it failed; the message is what it printed.
    """
    command = [sys.executable, *map(str, arguments)]
    started = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    took = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"{command} gave {done.returncode}:\n{done.stdout}")
    return took


# A process begins with the peak of the one that started it, so a small one has to.
_LAUNCHER = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(os.waitstatus_to_exitcode(status), usage.ru_maxrss)
"""


def peak_megabytes(*arguments: object) -> float:
    """Run a command line of Python and give the peak resident memory of its process, in 10**6 bytes.

    Raises:
        RuntimeError: it failed.
    """
    command = [sys.executable, *map(str, arguments)]
    launch = [sys.executable, "-c", _LAUNCHER, *command]
    printed = subprocess.run(launch, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    code, peak = map(int, printed.split())
    if code:
        raise RuntimeError(f"{command} gave {code}")
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


def matmul_rate(device: torch.device, dtype: torch.dtype, size: int = 4096) -> float:
    """Measure the floating-point operations a second of a square matrix product: the best of ten."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

    def product() -> None:
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()

    product()
    return 2 * size**3 / min(seconds(product) for _ in range(10))


def copy_rate(device: torch.device, size: int = 2**28) -> float:
    """Measure the bytes a second that a large copy reads and writes: the best of ten."""
    source, target = (torch.empty(size, dtype=torch.uint8, device=device).fill_(1) for _ in range(2))

    def copy() -> None:
        target.copy_(source)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return 2 * size / min(seconds(copy) for _ in range(10))


def machine_name(device: torch.device) -> str:
    """Name the machine for a file name: its processor and cores, or its GPU."""
    name = platform.processor() or platform.machine()
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.exists() and (found := re.search(r"model name\s*:\s*(.+)", cpu_info.read_text())):
        name = found.group(1)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{name} {os.cpu_count()} cores"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
