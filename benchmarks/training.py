"""What training reads and how fast it steps: the cache, the samples, and the project's scripts run as they are."""

import contextlib
import functools
import itertools
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast
from unittest import mock

import torch
from torch import nn
from torch.utils.data import default_collate
from torch.utils.flop_counter import FlopCounterMode

import cache_lab
import train_lab
import train_vgg
from benchmarks import textbook
from benchmarks.measure import Row, compare, in_fresh_process, matmul_rate, medians, parse, repeat, seconds, silence
from config import CORES, CacheConfig, TrainConfig, VGGConfig
from dataset_lab_cache import open_source
from utils import run
from utils.training import stage
from utils.training.optimization import update_ema

SIZE, LOAD_SIZE, BATCH = textbook.SIZE, 286, 16  # of samples
WARM_UP = 1  # step
TEXTBOOK = "--init-checkpoint textbook"  # see `our_steps`


def build(images_dir: Path, folder: Path, size: int, num_workers: int) -> float:
    """Build our cache from scratch, silently, and return the seconds."""
    shutil.rmtree(folder, ignore_errors=True)
    cfg = CacheConfig(images_dir=images_dir, cache_dir=folder, load_size=size, num_workers=num_workers)
    with silence():
        return seconds(lambda: cache_lab.cache(cfg))


def measure_loading(images_dir: Path, folder: Path, turns: int) -> list[Row]:
    """Compare the caches and the samples in one thread, in a fresh process; `folder` is to work in."""
    torch.set_num_threads(1)
    images = sorted(images_dir.iterdir())
    theirs, ours = folder / "textbook", folder / "ours"
    *pair, all_cores = medians(
        turns,
        lambda: seconds(lambda: textbook.cache(images, theirs)) / len(images) * 1e3,
        lambda: build(images_dir, ours, LOAD_SIZE, 1) / len(images) * 1e3,
        lambda: build(images_dir, ours, LOAD_SIZE, CORES) / len(images) * 1e3,
    )
    rows = [
        compare("building the cache, one core", "ms/image", pair, 3, f"ours at {LOAD_SIZE} px"),
        compare(f"... on {CORES} cores against one", "ms/image", [pair[1], all_cores], CORES, "both ours"),
    ]
    cfg = TrainConfig(images_dir=images_dir, img_size=SIZE, load_size=LOAD_SIZE, scale_jitter=0.0)  # as the textbook
    with silence():
        sources = [open_source(replace(cfg, cache_dir=cache)) for cache in (folder / "none", ours)]
    from_files, from_cache = (source.open_samples(images, 0) for source in sources)
    pixels = sum(height * width for height, width, _ in (from_cache.load(i).shape for i in range(len(images))))
    caches = (theirs.glob("*.pt"), len(images)), (ours.rglob("shard_*.bin"), pixels / SIZE**2)
    sizes = [sum(path.stat().st_size for path in paths) / count / 1e3 for paths, count in caches]
    rows.append(compare("bytes of the cache", "KB/image", sizes, 4, f"for {SIZE} x {SIZE} pixels"))

    batches = [range(first, first + BATCH) for first in range(0, len(images) - BATCH + 1, BATCH)]

    def milliseconds(load: Callable[[range], object]) -> float:
        return seconds(lambda: [load(batch) for batch in batches]) / (len(batches) * BATCH) * 1e3

    cached = textbook.CacheDataset(theirs)
    pair = medians(
        turns,
        lambda: milliseconds(lambda batch: default_collate([textbook.to_sample(images[key]) for key in batch])),
        lambda: milliseconds(lambda batch: from_files.__getitems__([(0, key) for key in batch])),
    )
    note = f"{SIZE} px, in batches of {BATCH}"
    rows.append(compare("sample from JPEG, one worker", "ms/image", pair, 3, note))
    pair = medians(
        turns,
        lambda: milliseconds(lambda batch: default_collate([cached[key] for key in batch])),
        lambda: milliseconds(lambda batch: from_cache.__getitems__([(0, key) for key in batch])),
    )
    return [*rows, compare("sample from the cache", "ms/image", pair, 20, note)]


@contextlib.contextmanager
def after_each_step(notice: Callable[[int], None]) -> Iterator[None]:
    """Let a training script run silently, and call `notice` with the number of each step, from 0, when it ends."""

    def update_and_notice(ema: nn.Module, module: nn.Module, step: int, decay: float) -> None:
        update_ema(ema, module, step, decay)  # ends a step
        notice(step)

    with silence(), mock.patch.object(stage, "update_ema", update_and_notice):
        yield


def our_steps(cfg: TrainConfig | VGGConfig) -> float:
    """Run stage 1 or 3, with an `init_checkpoint` on the textbook's networks; return the milliseconds per image."""
    times = []

    def notice(step: int) -> None:
        if cfg.device.startswith("cuda"):
            torch.cuda.synchronize()
        times.append(time.perf_counter())

    def inherit(self: stage.Stage, _: str) -> tuple[nn.Module, nn.Module, int]:
        return run.place(textbook.Generator(), self.device), run.place(textbook.Discriminator(), self.device), 4

    shutil.rmtree(cfg.output_dir, ignore_errors=True)
    with after_each_step(notice), mock.patch.object(stage.Stage, "inherit", inherit):
        train_lab.train(cfg) if isinstance(cfg, TrainConfig) else train_vgg.train(cfg)
    return milliseconds_an_image(times, cfg.batch_size)


def backward_flops(
    grad_shape: Sequence[int],
    x_shape: Sequence[int],
    weight_shape: Sequence[int],
    *settings: object,
    out_shape: object,
) -> int:
    """Count the operations of aten's convolution_backward: each gradient costs what the layer itself does.

    torch's own formula knows no groups, and takes depthwise layers for full ones.
    """
    *_, transposed, _output_padding, _groups, wanted = settings
    places = (x_shape if transposed else grad_shape)[2:]
    of_x, of_weights, _of_bias = cast(tuple[bool, bool, bool], wanted)
    return (of_x + of_weights) * 2 * grad_shape[0] * math.prod(places) * math.prod(weight_shape)


def count_flops(work: Callable[[], object]) -> int:
    """Count the floating-point operations of some work."""
    formulas = {torch.ops.aten.convolution_backward: backward_flops}
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        work()
    return counter.get_total_flops()


def textbook_steps(cfg: TrainConfig | VGGConfig, cache_dir: Path) -> float:
    """Run the textbook's loop for as many steps from its cache, and return the milliseconds per image."""
    device, with_vgg = torch.device(cfg.device), isinstance(cfg, VGGConfig)
    losses = textbook.train(cache_dir, cfg.batch_size, textbook.Generator().to(device), device, with_vgg)
    times = [time.perf_counter() for _ in itertools.islice(losses, cfg.max_steps)]
    return milliseconds_an_image(times, cfg.batch_size)


def milliseconds_an_image(times: list[float], batch_size: int) -> float:
    """Average the steps after the warm-up."""
    return (times[-1] - times[WARM_UP - 1]) / (len(times) - WARM_UP) / batch_size * 1e3


def measure_steps(
    images: Sequence[Path], folder: Path, device: torch.device, turns: int, steps: int
) -> Iterator[Row]:
    """Compare the steps of stages 1 and 3 on equal networks, and time the default ones; `folder` is to work in."""
    enough = repeat(images, 2 * (WARM_UP + steps) * 8, folder / "enough")  # one epoch, with some to hold out
    textbook.cache(sorted(enough.iterdir()), folder / "textbook256")
    build(enough, folder / "ours256", LOAD_SIZE, CORES)

    def our_config(number: int, batch_size: int, flags: str) -> TrainConfig | VGGConfig:
        flags += f" --img-size {SIZE} --load-size {LOAD_SIZE} --scale-jitter 0 --batch-size {batch_size}"
        flags += f" --device {device} --max-steps {WARM_UP + steps} --val-fraction 0.05"
        flags += " --last-every 1000000 --images-dir"
        paths = "--cache-dir", folder / "ours256", "--output-dir", folder / "run"
        return parse(VGGConfig, flags, enough, *paths) if number == 3 else parse(TrainConfig, flags, enough, *paths)

    aims = (4, 2) if device.type == "cuda" else (2.5, 1)
    for number, flags, aim in ((1, TEXTBOOK, aims[0]), (3, "--vgg-weights stand-in", aims[1])):
        cfg = our_config(number, 4, flags)
        sides = (textbook_steps, cfg, folder / "textbook256"), (our_steps, cfg)
        pair = medians(turns, *(functools.partial(in_fresh_process, *side) for side in sides))
        yield compare(f"stage {number} step", "ms/image", pair, aim, f"textbook's networks, {SIZE} px, batch 4")

    default = our_config(1, 8, "--frozen-share 0")
    pairs = replace(default, batch_size=2)
    counts = [
        in_fresh_process(count_flops, functools.partial(our_steps, replace(pairs, max_steps=number)))
        for number in (WARM_UP + 1, WARM_UP + 2)
    ]
    peak = matmul_rate(device, run.amp_dtype(device, True) or torch.float32)
    (took,) = medians(turns, functools.partial(in_fresh_process, our_steps, default))
    per_image = (counts[1] - counts[0]) / pairs.batch_size  # of one step
    note = f"all trained, {SIZE} px, batch 8: {1e3 / took:.1f} images/s, {per_image / 1e9:.1f} GFLOP an image, "
    note += f"{per_image / (took / 1e3) / peak:.0%} of the measured matmul peak of {peak / 1e9:,.0f} GFLOP/s"
    yield Row("stage 1 step, default networks", "ms/image", took, note=note)
