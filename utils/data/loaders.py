"""The loaders of a training stage: its own batches, in an order that can be resumed, and the held-out ones."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from config import TrainingConfig
from utils import run
from utils.data.samples import Source
from utils.data.split import EpochBatches, is_held_out
from utils.files import name_bytes
from utils.fixed_samples import choose_fixed_images
from utils.run import UserError


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
    """Use one thread, and leave signals to the main process, which finishes its batch and stops the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _share(batch) -> tuple[Tensor, Tensor]:
    """Put a batch, which the datasets make whole, into the memory that a worker shares with the main process.

    If that memory is full, as in a container with 64 MB of it, the error is raised here. The worker's queue would
    share the batch as well, but silently drop one that does not fit, and the main process would wait forever.
    """
    if get_worker_info() is None:
        return batch
    try:
        return batch[0].share_memory_(), batch[1].share_memory_()
    except RuntimeError as error:
        raise UserError(f"shared memory: {error}; enlarge /dev/shm, or give --num-workers 0") from error


def open_training_data(cfg: TrainingConfig, source: Source) -> TrainingData:
    """Split a source into training and held-out images and open both.

    Raises:
        UserError: there is nothing to train or validate on.
    """
    train = [path for path in source.images if not is_held_out(path, cfg.val_fraction)]
    held_out = [path for path in source.images if is_held_out(path, cfg.val_fraction)]
    all_held_out, held_out = len(held_out), choose_fixed_images(held_out, cfg.val_images)
    if not source.images:
        raise UserError(f"{cfg.images_dir}: no image is left to train on; give others or another --filter-report")
    if not train or not held_out:
        raise UserError(
            f"{cfg.images_dir}: {len(train)} images to train on and {len(held_out)} held out; change --val-fraction"
        )
    if len(train) < run.world_size():
        raise UserError(f"{cfg.images_dir}: {len(train)} images to train on; start at most as many processes")
    run.say(f"data: {len(train)} images to train on, {all_held_out} held out, {len(held_out)} of them for validation")
    batches = EpochBatches(len(train), cfg.batch_size, cfg.seed)
    loader = DataLoader(
        source.open_samples(train, cfg.seed),
        batch_sampler=batches,
        num_workers=cfg.num_workers,
        pin_memory=cfg.device.startswith("cuda"),
        persistent_workers=cfg.num_workers > 0,
        worker_init_fn=_init_worker,
        collate_fn=_share,
        generator=torch.Generator(),  # otherwise every epoch would draw from the global generator
    )
    held_out_data = source.open_samples(held_out, None)
    val_loader = DataLoader(held_out_data, batch_size=cfg.batch_size, collate_fn=_share, generator=torch.Generator())
    fixed = held_out_data.__getitems__(range(min(8, len(held_out))))
    split = "\n".join(path.name for path in [*train, Path("held out"), *held_out])
    key = hashlib.sha256(name_bytes(f"{source.key}\n{split}")).hexdigest()

    def names_at(step: int) -> list[str]:
        return [train[index].name for index in batches.at(step)]

    return TrainingData(loader, batches, val_loader, fixed, names_at, key)
