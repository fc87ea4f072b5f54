"""Time a generator in PyTorch and, exported, in onnxruntime, on this machine's CPU.

    python -m benchmarks.exported [CHECKPOINT]

Reads a G_*.pt file; prints a table. The sides are timed in turns (A B C A B C) in one process; the figures are
medians.
"""

from __future__ import annotations

import copy
import functools
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
import tyro
from torch import nn

from benchmarks.measure import in_turns, machine_name, run_python, seconds
from config import DEFAULT_CHECKPOINT
from utils import run
from utils.checkpoint import load_generator
from utils.colorize import cast_convolutions

CPU = torch.device("cpu")
SHAPES = [(1, 1, 128, 192), (8, 1, 128, 192), (1, 1, 256, 384), (8, 1, 256, 384)]


@dataclass(frozen=True)
class ExportedConfig:
    """Time a generator in PyTorch and in onnxruntime."""

    checkpoint: tyro.conf.Positional[Path] = DEFAULT_CHECKPOINT
    """G_*.pt file."""
    turns: int = 9
    """Timings of each side."""


@torch.inference_mode()
def milliseconds(generator: nn.Module, dtype: torch.dtype | None, shape: tuple[int, ...]) -> float:
    """Time one batch, in milliseconds an image."""
    l = torch.rand(shape) * 2 - 1
    with run.autocast(CPU, dtype):
        return seconds(lambda: generator(l)) / shape[0] * 1e3


def benchmark(cfg: ExportedConfig) -> None:
    """Export, time each side, and print the medians with the conditions."""
    generator, _ = load_generator(cfg.checkpoint, CPU)
    with tempfile.TemporaryDirectory() as work:
        run_python("export_lab.py", cfg.checkpoint.resolve(), "--output-dir", work)
        exported, _ = load_generator(Path(work) / f"{cfg.checkpoint.stem}.onnx", CPU)
    sides = {"PyTorch, float32": (generator, None), "onnxruntime, float32": (exported, None)}
    if dtype := run.amp_dtype(CPU, True):  # what infer_lab.py computes in
        mixed = copy.deepcopy(generator)
        cast_convolutions(mixed, dtype)
        sides[f"PyTorch, {str(dtype).removeprefix('torch.')}"] = mixed, dtype
    print(f"| batch | {' | '.join(sides)} |\n| --- {'| ---: ' * len(sides)}|")
    for shape in SHAPES:
        timings = [functools.partial(milliseconds, network, dtype, shape) for network, dtype in sides.values()]
        medians = [statistics.median(series) for series in in_turns(cfg.turns, *timings)]
        print(f"| {shape[0]} of {shape[2]} x {shape[3]} | {' | '.join(f'{ms:.1f} ms/image' for ms in medians)} |")
    print(f"{cfg.checkpoint.name}, {machine_name(CPU)}, {torch.get_num_threads()} threads, {cfg.turns} turns")
    print(f"commit {run.git_commit()}")
    print(f"Python {sys.version.split()[0]}, torch {torch.__version__}, onnxruntime {version('onnxruntime')}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and give the exit code."""
    return run.run_script(ExportedConfig, benchmark, argv)


if __name__ == "__main__":
    sys.exit(main())
