"""Training steps: the project's own scripts run as they are, and their steps are timed as they pass."""

from __future__ import annotations

import contextlib
import io
import itertools
import shutil
import statistics
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from unittest import mock

import torch
from torch import nn
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

import train_lab
import train_vgg
from benchmarks import textbook
from benchmarks.measure import Row, compare, in_fresh_process, in_turns, matmul_rate
from config import TrainConfig, VGGConfig
from utils import checkpoint, run

WARM_UP = 2  # steps


class StepClock:
    """Stands in for `update_ema`, the last call of a step, and notes when steps end, or counts the FLOPs of one."""

    def __init__(self, script: ModuleType, device: torch.device, counter: FlopCounterMode | None):
        self.update_ema, self.device, self.counter = script.update_ema, device, counter
        self.times: list[float] = []

    def __call__(self, *arguments: object) -> None:
        self.update_ema(*arguments)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())
        if self.counter and len(self.times) == WARM_UP:
            self.counter.__enter__()
        elif self.counter and len(self.times) == WARM_UP + 1:
            self.counter.__exit__(None, None, None)


def our_steps(
    cfg: TrainConfig | VGGConfig, textbook_networks: bool, count_flops: bool = False
) -> tuple[list[float], int]:
    """Run stage 1 or 3 from nothing for `cfg.max_steps` steps, silently.

    Args:
        cfg: a TrainConfig or a VGGConfig, which names the stage.
        textbook_networks: train the textbook's networks, instead of those that `cfg` asks for.
        count_flops: of the step after the warm-up.

    Returns:
        When the steps ended, and the floating-point operations.
    """
    script = train_lab if isinstance(cfg, TrainConfig) else train_vgg
    counter = FlopCounterMode(display=False) if count_flops else None
    device = torch.device(cfg.device)
    clock = StepClock(script, device, counter)
    shutil.rmtree(cfg.output_dir, ignore_errors=True)
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        stack.enter_context(mock.patch.object(script, "update_ema", clock))
        generator, discriminator = make_textbook_networks()
        if textbook_networks and script is train_lab:
            stack.enter_context(mock.patch.object(script, "GeneratorUNet", lambda *_: generator))
            stack.enter_context(mock.patch.object(script, "PatchDiscriminator", lambda *_: discriminator))
        elif textbook_networks:
            info = {"stage": "finetune", "epoch": 4, "step": 0, "architecture": {}, "digest": ""}
            info["config"] = {"val_fraction": cfg.val_fraction}
            loaded = (run.place(generator, device), run.place(discriminator, device), info)
            stack.enter_context(mock.patch.object(checkpoint, "load_stage", lambda *_: loaded))
        script.train(cfg)
    return clock.times, counter.get_total_flops() if counter else 0


def make_textbook_networks() -> tuple[nn.Module, nn.Module]:
    """Make the textbook's G and D."""
    return textbook.Generator(), textbook.Discriminator()


def textbook_steps(cache: Path, batch_size: int, steps: int, device: torch.device, stage: int) -> list[float]:
    """Run the textbook's stage 1 or 3 and give when its steps ended."""
    generator, discriminator = (network.to(device) for network in make_textbook_networks())
    loader = DataLoader(textbook.CacheDataset(cache), batch_size, shuffle=True, drop_last=True, num_workers=2)
    vgg = textbook.VGGFeatures().to(device) if stage == 3 else None
    losses = textbook.train(loader, generator, discriminator, device, vgg)
    return [time.perf_counter() for _ in itertools.islice(losses, steps)]


def milliseconds_an_image(times: list[float], batch_size: int) -> float:
    """Average the steps after the warm-up."""
    return (times[-1] - times[WARM_UP - 1]) / (len(times) - WARM_UP) / batch_size * 1e3


def measure(
    images_dir: Path, caches: dict[int, tuple[Path, Path]], folder: Path, device: torch.device, turns: int, steps: int
) -> list[Row]:
    """Time the steps of stages 1 and 3 on equal networks, and those of the default networks.

    Args:
        images_dir: enough images for one epoch of all steps.
        caches: training size -> the textbook's cache, and the parent of ours.
        folder: to work in.
        device: where to train.
        turns: pairs.
        steps: timed in each.
    """
    steps += WARM_UP
    gpu = device.type == "cuda"
    base = {"images_dir": images_dir, "output_dir": folder / "run", "device": str(device), "max_steps": steps}
    base |= {"val_fraction": 0.05, "last_every": 10**6}
    rows = []
    for stage, size, batch_size, target in (
        (1, 256, 4, 4 if gpu else 2.5),
        (1, 128, 16, 4 if gpu else 2.5),
        (3, 256, 4, 2 if gpu else 1),
    ):
        theirs, ours = caches[size]
        values = {
            **base,
            "cache_dir": ours,
            "img_size": size,
            "load_size": size * 286 // 256,
            "batch_size": batch_size,
        }
        cfg = TrainConfig(**values) if stage == 1 else VGGConfig(**values, vgg_weights="stand-in")

        def their_turn(cache=theirs, batch_size=batch_size, stage=stage) -> float:
            times = in_fresh_process(textbook_steps, cache, batch_size, steps, device, stage)
            return milliseconds_an_image(times, batch_size)

        def our_turn(cfg=cfg) -> float:
            return milliseconds_an_image(in_fresh_process(our_steps, cfg, True)[0], cfg.batch_size)

        note = f"textbook's networks, {size} px, batch {batch_size}"
        times = in_turns(turns, their_turn, our_turn, warm_up=False)  # each process warms up for itself
        rows.append(compare(f"stage {stage} step", "ms/image", *times, target, note))

    size, batch_size = 256, 16
    cfg = TrainConfig(**base, cache_dir=caches[size][1], img_size=size, batch_size=batch_size)
    _, flops = in_fresh_process(our_steps, replace(cfg, max_steps=WARM_UP + 1), False, True)
    flops /= batch_size
    peak = matmul_rate(device, run.amp_dtype(device, True) or torch.float32)

    def default_turn() -> float:
        return milliseconds_an_image(in_fresh_process(our_steps, cfg, False)[0], batch_size)

    (took,) = in_turns(turns, default_turn, warm_up=False)
    row = Row("stage 1 step, default networks", "ms/image", statistics.median(took))
    share = flops / (row.ours / 1e3) / peak
    note = f"{size} px, batch {batch_size}: {1e3 / row.ours:.1f} images/s, {flops / 1e9:.1f} GFLOP an image, "
    note += f"{share:.0%} of the measured matmul peak of {peak / 1e9:,.0f} GFLOP/s"
    return [*rows, replace(row, note=note)]
