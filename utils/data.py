"""What a training stage reads: the held-out split, an order that can be resumed, files or cache."""

from __future__ import annotations

import hashlib
import math
import signal
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, get_worker_info

from config import TrainingConfig
from dataset_lab_cache import LabCacheDataset, cache_folder
from dataset_lab_subset import LabSubsetDataset
from utils import run
from utils.files import name_bytes, read_json
from utils.fixed_samples import choose_fixed_images
from utils.images import FIRST, list_images
from utils.run import UserError
from utils.samples import image_keys, source_hash

MIN_IMG_SIZE = 32  # pixels: smaller ones leave the discriminator no patch


def is_held_out(path: Path, val_fraction: float) -> bool:
    """Decide from the file name alone whether an image is for validation, so that every stage agrees."""
    return zlib.crc32(name_bytes(path.name)) < val_fraction * 2**32


def drop_rejected(images: Sequence[Path], report: Path) -> list[Path]:
    """Leave out the images that filter.py found gray or unreadable; its other reasons concern stage 1 alone.

    Raises:
        UserError: the report exists but cannot be read, or is something else.
    """
    if not report.exists():
        run.say(f"data: no {report}, so gray images are not left out (python filter.py writes it)")
        return list(images)
    mend = "run python filter.py again"
    try:
        rejected = read_json(report, mend)["rejected"]
        kept = [path for path in images if not {"gray", "unreadable"} & set(rejected.get(path.name, ()))]
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{report}: not a report of filter.py; {mend}") from None
    run.say(f"data: {report} leaves out {len(images) - len(kept)} gray or broken images")
    return kept


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Batches of one epoch, in an order drawn from (seed, epoch): all of them, or a part.

    Yields lists of (epoch, index). With several processes each takes every n-th image of the same global batch.
    An incomplete last batch is dropped, unless it is the only one.
    """

    def __init__(self, count: int, batch_size: int, seed: int):
        self.count, self.seed = count, seed
        self.global_batch = min(batch_size * run.world_size(), count)
        self.set_position(0, 0, len(self))

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return self.count // self.global_batch

    def set_position(self, epoch: int, first: int, stop: int) -> None:
        """Choose the epoch and the range of its batches that the next iteration yields."""
        self.epoch, self.first, self.stop = epoch, first, stop

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, epoch)).permutation(self.count)

    def at(self, step: int) -> list[int]:
        """Give the indices of the global batch of a step, counted from 0 over the epochs."""
        epoch, batch = divmod(step, len(self))
        return self._order(epoch)[batch * self.global_batch : (batch + 1) * self.global_batch].tolist()

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = self._order(self.epoch)
        for batch in range(self.first, self.stop):
            indices = order[batch * self.global_batch : (batch + 1) * self.global_batch]
            yield [(self.epoch, int(index)) for index in indices[run.rank() :: run.world_size()]]


@dataclass(frozen=True)
class TrainingData:
    """What a stage trains and validates on.

    Attributes:
        loader: training batches of L (B, 1, S, S) and ab (B, 2, S, S), uint8, in the order of `batches`.
        batches: the order; `set_position` before each iteration.
        val_loader: held-out batches of the same form, center crops in a fixed order.
        fixed: the first held-out samples, as one batch, for the sample grids.
        names_at: gives the file names of a step's batch, over all processes; steps count from 0 over the epochs.
        key: identifies the images and their split, for the check on resuming.
    """

    loader: DataLoader
    batches: EpochBatches
    val_loader: DataLoader
    fixed: tuple[Tensor, Tensor]
    names_at: Callable[[int], list[str]]
    key: str


def _init_worker(_: int) -> None:
    """Leave the cores to each other, and signals to the main process, which finishes its batch and says good-bye."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _share(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Put a batch, which the datasets make whole, into the memory that a worker shares with the main process.

    Where that is full, as in a container with 64 MB of it, the error is met here. The worker's queue would share it
    as well, but drop a batch that it has no room for, and the main process would wait for that one for ever.
    """
    if get_worker_info() is None:
        return batch
    try:
        return batch[0].share_memory_(), batch[1].share_memory_()
    except RuntimeError as error:
        raise UserError(f"shared memory: {error}; enlarge /dev/shm, or give --num-workers 0") from error


def check_ranges(cfg: TrainingConfig) -> None:
    """Check the numbers that every stage takes.

    Raises:
        UserError: one of them makes no sense.
    """
    positive = ["epochs", "batch_size", "val_images", "sample_every", "save_every", "last_every"]
    for name in [*positive, *(["max_steps"] if cfg.max_steps is not None else [])]:
        if getattr(cfg, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(cfg, name)}: must be at least 1")
    for name in ("num_workers", "seed", "warmup_steps"):
        if getattr(cfg, name) < 0:
            raise UserError(f"--{name.replace('_', '-')} {getattr(cfg, name)}: must not be negative")
    for name in ("learning_rate", "lambda_l1", "lambda_vgg"):
        value = getattr(cfg, name, 1.0)
        if not (math.isfinite(value) and value >= 0):
            raise UserError(f"--{name.replace('_', '-')} {value}: must be a finite number, and not negative")
    if cfg.img_size < MIN_IMG_SIZE:
        raise UserError(f"--img-size {cfg.img_size}: the discriminator needs at least {MIN_IMG_SIZE}")
    if cfg.load_size < cfg.img_size:
        raise UserError(f"--load-size {cfg.load_size}: must be at least --img-size {cfg.img_size}")
    if not 0 <= cfg.scale_jitter <= 0.5:
        raise UserError(f"--scale-jitter {cfg.scale_jitter}: must be in [0, 0.5]")
    if not 0 <= cfg.ema_decay < 1:
        raise UserError(f"--ema-decay {cfg.ema_decay}: must be in [0, 1)")


def open_training_data(cfg: TrainingConfig, images_dir: Path, filter_report: Path | None = None) -> TrainingData:
    """Split a source into training and held-out images and open it from its cache, or from the files.

    Args:
        cfg: the stage's configuration.
        images_dir: the source; its cache in `cfg.cache_dir` is used when it exists.
        filter_report: leave out what this report calls gray or unreadable.

    Raises:
        UserError: a number is out of its range, there is nothing to train or validate on, or the cache does not
            fit.
    """
    check_ranges(cfg)
    images = list_images(images_dir, mend=FIRST)
    key = source_hash(images_dir, images)
    folder = cache_folder(cfg.cache_dir, images_dir)
    cached = (folder / "index.json").exists()
    used = images if filter_report is None else drop_rejected(images, filter_report)
    if cached:
        run.say(f"data: {images_dir} from the cache {folder}")
        index = LabCacheDataset.open_index(folder, images_dir, key, cfg.load_size)
        names = dict(zip(images, image_keys(images_dir, images), strict=True))
        used = [path for path in used if names[path] in index.entries]  # less what the cache skipped as broken
    else:
        run.say(f"data: {images_dir} from the files (python cache_lab.py --images-dir {images_dir} makes it faster)")
    train = [path for path in used if not is_held_out(path, cfg.val_fraction)]
    held_out = choose_fixed_images([path for path in used if is_held_out(path, cfg.val_fraction)], cfg.val_images)
    if not train or not held_out:
        raise UserError(
            f"{images_dir}: {len(train)} images to train on and {len(held_out)} held out; change --val-fraction"
        )
    run.say(f"data: {len(train)} images to train on, {len(held_out)} held out for validation")

    def dataset(paths: list[Path], seed: int | None) -> LabCacheDataset | LabSubsetDataset:
        jitter = cfg.scale_jitter
        if cached:
            return LabCacheDataset(index, [names[path] for path in paths], cfg.img_size, seed, jitter)
        return LabSubsetDataset(paths, cfg.img_size, cfg.load_size, seed, jitter)

    batches = EpochBatches(len(train), cfg.batch_size, cfg.seed)
    loader = DataLoader(
        dataset(train, cfg.seed),
        batch_sampler=batches,
        num_workers=cfg.num_workers,
        pin_memory=cfg.device.startswith("cuda"),
        persistent_workers=cfg.num_workers > 0,
        worker_init_fn=_init_worker,
        collate_fn=_share,
        generator=torch.Generator(),  # else every epoch, and every resumption, would draw from the global one
    )
    held_out_data = dataset(held_out, None)
    val_loader = DataLoader(held_out_data, batch_size=cfg.batch_size, collate_fn=_share, generator=torch.Generator())
    fixed = held_out_data.__getitems__(range(min(8, len(held_out))))
    split = "\n".join(path.name for path in [*train, Path("held out"), *held_out])
    key = hashlib.sha256(name_bytes(f"{key}\n{split}")).hexdigest()

    def names_at(step: int) -> list[str]:
        return [train[index].name for index in batches.at(step)]

    return TrainingData(loader, batches, val_loader, fixed, names_at, key)
