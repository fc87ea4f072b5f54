"""Samples from image files and from the cache, and building the cache."""

from __future__ import annotations

import contextlib
import io
import shutil
from pathlib import Path

import torch
from torch.utils.data import Dataset, default_collate

import cache_lab
from benchmarks import textbook
from benchmarks.measure import Row, compare, in_turns, seconds
from config import CORES, CacheConfig
from dataset_lab_cache import LabCacheDataset
from dataset_lab_subset import LabSubsetDataset
from utils.samples import image_keys, source_hash

SIZE, LOAD_SIZE, BATCH = 256, 286, 16


def milliseconds_a_sample(dataset: Dataset, collate: bool) -> float:
    """Time batches of a dataset in this process."""
    keys = range(len(dataset) // BATCH * BATCH)
    batches = [keys[first : first + BATCH] for first in keys[::BATCH]]
    if collate:
        took = seconds(lambda: [default_collate([dataset[key] for key in batch]) for batch in batches])
    else:
        took = seconds(lambda: [dataset.__getitems__([(0, key) for key in batch]) for batch in batches])
    return took / len(keys) * 1e3


def build(images_dir: Path, folder: Path, size: int, num_workers: int) -> float:
    """Build our cache from nothing, silently, and give the seconds."""
    shutil.rmtree(folder, ignore_errors=True)
    cfg = CacheConfig(images_dir=images_dir, cache_dir=folder, load_size=size, num_workers=num_workers)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return seconds(lambda: cache_lab.cache(cfg))


def measure(images_dir: Path, folder: Path, turns: int) -> list[Row]:
    """Time both sides in one thread.

    Args:
        images_dir: JPEGs.
        folder: to work in.
        turns: pairs.
    """
    images = textbook.list_folder(images_dir)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        theirs, ours, ours_all_cores = in_turns(
            turns,
            lambda: seconds(lambda: textbook.cache(images, folder / "textbook")) / len(images) * 1e3,
            lambda: build(images_dir, folder / "ours", LOAD_SIZE, 1) / len(images) * 1e3,
            lambda: build(images_dir, folder / "ours", LOAD_SIZE, CORES) / len(images) * 1e3,
        )
        rows = [compare("building the cache, one core", "ms/image", theirs, ours, 3, f"ours at {LOAD_SIZE} px")]
        rows.append(
            compare(f"... on {CORES} cores against one", "ms/image", ours, ours_all_cores, CORES, "both ours")
        )

        build(images_dir, folder / "square", SIZE, CORES)  # for equal resolution, images of SIZE x SIZE
        their_bytes = [path.stat().st_size for path in (folder / "textbook").iterdir()]
        index = LabCacheDataset.open_index(
            folder / "square" / images_dir.name, images_dir, source_hash(images_dir, images), SIZE
        )
        pixels = sum(height * width for _, _, height, width in index.entries.values())
        shards = index.folder.glob("shard_*.bin")
        our_bytes = sum(path.stat().st_size for path in shards) / pixels * SIZE**2
        note = f"for {SIZE} x {SIZE} pixels"
        rows.append(compare("bytes of the cache", "KB/image", [their_bytes[0] / 1e3], [our_bytes / 1e3], 4, note))

        index = LabCacheDataset.open_index(
            folder / "ours" / images_dir.name, images_dir, source_hash(images_dir, images), LOAD_SIZE
        )
        datasets = {
            "sample from JPEG, one worker": (
                textbook.FileDataset(images),
                LabSubsetDataset(images, SIZE, LOAD_SIZE, seed=0),
                3,
            ),
            "sample from the cache": (
                textbook.CacheDataset(folder / "textbook"),
                LabCacheDataset(index, image_keys(images_dir, images), SIZE, seed=0),
                20,
            ),
        }
        for part, (their_data, our_data, target) in datasets.items():
            pair = in_turns(
                turns,
                lambda data=their_data: milliseconds_a_sample(data, collate=True),
                lambda data=our_data: milliseconds_a_sample(data, collate=False),
            )
            rows.append(compare(part, "ms/image", *pair, target, f"{SIZE} px, in batches of {BATCH}"))
    finally:
        torch.set_num_threads(threads)
    return rows
