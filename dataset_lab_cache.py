"""Samples from the cache that `cache_lab.py` writes: the same ones that `dataset_lab_subset.py` decodes.

A cache is a folder: `shard_00000.bin`, ... hold (3, H, W) uint8 LAB images one after the other, and `index.json`
their names and shapes with a record of what was asked for.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from config import TrainingConfig
from dataset_lab_subset import LabSubsetDataset
from utils import run
from utils.data.samples import LabDataset, Source, image_keys, source_hash
from utils.data.split import drop_rejected
from utils.files import FIRST, list_images, read_json
from utils.run import UserError

CACHE_FORMAT = 2


def cache_folder(cache_dir: Path, images_dir: Path) -> Path:
    """Name the cache of a source: a folder of `cache_dir` called after the folder or list file."""
    return cache_dir / (images_dir.resolve().name if images_dir.is_dir() else images_dir.stem)


@dataclass(frozen=True)
class CacheIndex:
    """Where each image of a cache lies.

    Attributes:
        folder: of the cache.
        entries: name -> (shard number, byte offset, height, width).
    """

    folder: Path
    entries: dict[str, tuple[int, int, int, int]]


class LabCacheDataset(LabDataset):
    """Read (L, ab) samples from a cache through memory maps, which each worker opens for itself.

    Args:
        index: from `open_index`.
        names: images of the cache, in a fixed order.
        img_size: side of the samples, in pixels.
        seed: of the random crops and flips; None gives center crops.
        scale_jitter: share by which the crop's side varies.
    """

    def __init__(
        self, index: CacheIndex, names: Sequence[str], img_size: int, seed: int | None, scale_jitter: float = 0.0
    ):
        super().__init__(img_size, seed, scale_jitter)
        self.folder = index.folder
        self.places = np.array([index.entries[name] for name in names], dtype=np.int64)  # (N, 4)
        self.shards: dict[int, np.ndarray] = {}

    @staticmethod
    def open_index(folder: Path, images_dir: Path, source_hash: str, load_size: int) -> CacheIndex:
        """Read a cache's index and check that it was made for this source, size and format.

        Raises:
            UserError: it does not fit or is damaged; the message says how to mend it.
        """
        mend = f"run: {cache_command(images_dir, load_size, folder.parent)} --overwrite"
        index = read_json(folder / "index.json", mend)
        try:
            meta = index["meta"]
            if meta["format"] != CACHE_FORMAT:
                raise UserError(f"{folder}: made by another version of cache_lab.py; {mend}")
            if meta["load_size"] != load_size:
                raise UserError(
                    f"{folder}: holds images at {meta['load_size']} px, but --load-size is {load_size}; {mend}"
                )
            if meta["source_hash"] != source_hash:
                what = f"{folder}: made from other images than those now in {images_dir}"
                raise UserError(f"{what}; give another --cache-dir, or {mend}")
            entries = {}
            for number, shard in enumerate(index["shards"]):
                offset = 0
                for name, height, width in shard:
                    if min(height, width) < load_size:
                        raise ValueError
                    entries[name] = (number, offset, height, width)
                    offset += 3 * height * width
                if (folder / f"shard_{number:05d}.bin").stat().st_size != offset:
                    raise ValueError
        except UserError:
            raise
        except (KeyError, TypeError, ValueError, OSError):
            raise UserError(f"{folder}: damaged; {mend}") from None
        return CacheIndex(folder, entries)

    def __len__(self) -> int:
        return len(self.places)

    def __getstate__(self) -> dict:
        """Leave the memory maps behind when a worker is spawned."""
        return {**self.__dict__, "shards": {}}

    def load(self, index: int) -> np.ndarray:
        """Give image `index` as (H, W, 3), uint8, stored LAB, read from the disk only where it is touched."""
        shard, offset, height, width = self.places[index].tolist()
        if shard not in self.shards:
            mapped = np.memmap(self.folder / f"shard_{shard:05d}.bin", np.uint8, mode="r")
            self.shards[shard] = mapped.view(np.ndarray)  # slicing a memmap itself costs ten times as much
        stored = self.shards[shard][offset : offset + 3 * height * width]
        if stored.size < 3 * height * width:
            raise UserError(f"{self.folder}: was replaced while it was read; run the same command again")
        return stored.reshape(3, height, width).transpose(1, 2, 0)

    def to_planes(self, crop: np.ndarray) -> Sequence[np.ndarray]:
        """Give the planes of a part of an image, as they are stored."""
        return list(crop.transpose(2, 0, 1))


def cache_command(images_dir: Path, load_size: int, cache_dir: Path) -> str:
    """Give the command line that makes the cache of a folder where training looks for it."""
    flags = "--images-dir", images_dir, "--load-size", load_size, "--cache-dir", cache_dir
    return shlex.join(["python", "cache_lab.py", *map(str, flags)])


def open_source(cfg: TrainingConfig, filter_report: Path | None = None) -> Source:
    """Find the images of a stage, in the cache where there is one, else as files.

    Args:
        cfg: the command line.
        filter_report: leave out the images that this report calls gray or unreadable.

    Raises:
        UserError: there are no images, or the cache or the report does not fit them.
    """
    images = list_images(cfg.images_dir, mend=FIRST)
    key = source_hash(cfg.images_dir, images)
    folder = cache_folder(cfg.cache_dir, cfg.images_dir)
    used = images if filter_report is None else drop_rejected(images, filter_report)
    if not (folder / "index.json").exists():
        hint = cache_command(cfg.images_dir, cfg.load_size, cfg.cache_dir)
        run.say(f"data: {cfg.images_dir} from the files (to make it faster: {hint})")
        sizes = cfg.img_size, cfg.load_size
        return Source(used, key, lambda paths, seed: LabSubsetDataset(paths, *sizes, seed, cfg.scale_jitter))
    run.say(f"data: {cfg.images_dir} from the cache {folder}")
    index = LabCacheDataset.open_index(folder, cfg.images_dir, key, cfg.load_size)
    names = dict(zip(images, image_keys(cfg.images_dir, images), strict=True))
    cached = [path for path in used if names[path] in index.entries]  # less what the cache skipped as broken

    def open_samples(paths: Sequence[Path], seed: int | None) -> LabCacheDataset:
        return LabCacheDataset(index, [names[path] for path in paths], cfg.img_size, seed, cfg.scale_jitter)

    return Source(cached, key, open_samples)
