"""Convert images to uint8 LAB once, so that training reads samples instead of decoding JPEGs.

    python cache_lab.py                                        # the filtered subset
    python cache_lab.py --images-dir data/coco/train2017       # the full data set
    torchrun --nnodes M --nproc_per_node 1 --rdzv_backend c10d --rdzv_endpoint HOST:29500 cache_lab.py
                                                               # on M machines that share a file system

Reads a folder of images, or a text file with one path a line. Writes lab_cache/<its name>/: shards of (3, H, W)
uint8 images, 3 bytes a pixel, the aspect ratio kept, and index.json. After an interruption, the same command
resumes after the last complete shard. Color as in scikit-image's CIELAB (CIE 15:2004), see utils/lab.py.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import PIL
import torch
from tqdm import tqdm

from config import CacheConfig
from dataset_lab_cache import CACHE_FORMAT, cache_folder
from utils import run
from utils.collectives import barrier
from utils.data.samples import image_keys, lab_planes, load_rgb, source_hash
from utils.files import FIRST, list_images, open_atomically, read_json, write_json
from utils.images import ImageError
from utils.lab import STORED_RANGES
from utils.run import UserError, map_in_threads


def load_or_explain(path: Path, load_size: int) -> np.ndarray | str:
    """Give the stored LAB of an image, (3, H, W), or the reason why it cannot be used."""
    try:
        return np.stack(lab_planes(load_rgb(path, load_size)))
    except ImageError as error:
        return str(error)


def write_shard(folder: Path, number: int, images: Sequence[Path], names: Sequence[str], cfg: CacheConfig) -> None:
    """Write one shard and its record: the (name, height, width) of its images, and what was skipped.

    The record stays next to the shard until the index is written: a shard with a record is complete.
    """
    entries: list[tuple[str, int, int]] = []
    skipped: dict[str, str] = {}
    with open_atomically(folder / f"shard_{number:05d}.bin") as file:
        loaded = map_in_threads(lambda path: load_or_explain(path, cfg.load_size), images, cfg.num_workers)
        for name, lab in zip(
            names, tqdm(loaded, f"shard {number}", len(images), unit="image", disable=not run.is_main()), strict=True
        ):
            if isinstance(lab, str):
                skipped[name] = lab
            else:
                file.write(lab)
                entries.append((name, *lab.shape[1:]))
    record = {"entries": entries, "skipped": skipped}
    write_json(folder / f"shard_{number:05d}.json", record, indent=None)


def is_whole(folder: Path, request: dict, overwrite: bool) -> bool:
    """Say whether a folder already holds the cache that is asked for.

    Raises:
        UserError: it holds a cache for another request that may not be replaced, or something else.
    """
    if not folder.exists():
        return False
    mend = f"delete {folder} if it is not needed"
    earlier = read_json(folder / "request.json", mend) if (folder / "request.json").exists() else None
    if earlier is None and any(path.name != "request.json.tmp" for path in folder.iterdir()):  # that of a killed run
        raise UserError(f"{folder}: holds something that cache_lab.py did not write; choose another --cache-dir")
    if earlier not in (None, request) and not overwrite:
        changed = ", ".join(name for name in request if earlier.get(name) != request[name])
        raise UserError(f"{folder}: holds a cache for another request ({changed}); --overwrite replaces it")
    return not overwrite and (folder / "index.json").exists()


def cache(cfg: CacheConfig) -> Path:
    """Build the cache of a source and give its folder; under torchrun each process writes its share of the shards.

    Raises:
        UserError: there is nothing to cache, or the folder holds a cache for another request.
    """
    if cfg.load_size < 1 or cfg.shard_images < 1:
        raise UserError(f"--load-size {cfg.load_size} --shard-images {cfg.shard_images}: both must be at least 1")
    run.set_up_device("cpu")
    images = list_images(cfg.images_dir, mend=FIRST)
    names = image_keys(cfg.images_dir, images)
    request = {
        "format": CACHE_FORMAT,
        "source": cfg.images_dir.name,
        "source_hash": source_hash(cfg.images_dir, images),
        "images": len(images),
        "load_size": cfg.load_size,
        "shard_images": cfg.shard_images,
        "layout": "(3, H, W) uint8: L, a, b as utils.lab.encode_lab stores them",
        "ranges": STORED_RANGES,
    }
    folder = cache_folder(cfg.cache_dir, cfg.images_dir)
    run.hold(folder)
    if is_whole(folder, request, cfg.overwrite):
        if run.is_main():
            remove_records(folder)
        run.say(f"{folder}: already whole, {len(images)} images at {cfg.load_size} px")
        return folder
    barrier()  # every process checks before any of them writes
    if run.is_main():
        if cfg.overwrite:
            remove_cache(folder, request)
        write_json(folder / "request.json", request)
    barrier()

    firsts = list(enumerate(range(0, len(images), cfg.shard_images)))
    records = [folder / f"shard_{number:05d}.json" for number, _ in firsts]
    for number, first in firsts[run.rank() :: run.world_size()]:
        chunk = slice(first, first + cfg.shard_images)
        if not records[number].exists():
            write_shard(folder, number, images[chunk], names[chunk], cfg)
    barrier()
    if run.is_main():
        write_index(folder, request, [read_json(record, "rerun with --overwrite") for record in records])
        remove_records(folder)
    return folder


def remove_cache(folder: Path, request: dict) -> None:
    """Remove a whole cache, or the beginnings of another one; what a killed run of this request made is kept."""
    unfinished = folder / "request.json"
    whole = (folder / "index.json").exists()
    if not whole and unfinished.exists() and read_json(unfinished, "rerun with --overwrite") == request:
        return
    for path in [folder / "index.json", *folder.glob("shard_*"), unfinished]:  # the last one says whose folder it is
        path.unlink(missing_ok=True)


def remove_records(folder: Path) -> None:
    """Remove the shards' records, which the index has replaced."""
    for record in folder.glob("shard_*.json"):
        record.unlink()


def write_index(folder: Path, request: dict, records: Sequence[dict]) -> None:
    """Write index.json from the shards' records and say what was skipped.

    Raises:
        UserError: no image could be read; the folder is removed.
    """
    skipped = {name: reason for record in records for name, reason in record["skipped"].items()}
    if len(skipped) == request["images"]:
        shutil.rmtree(folder)
        raise UserError(f"{request['source']}: none of its {len(skipped)} images can be read")
    versions = {"opencv": cv2.__version__, "numpy": np.__version__, "pillow": PIL.__version__}
    versions["torch"] = torch.__version__
    meta = {**request, "versions": versions, "commit": run.git_commit(), "skipped": skipped}
    write_json(
        folder / "index.json", {"meta": meta, "shards": [record["entries"] for record in records]}, indent=None
    )
    size = sum(path.stat().st_size for path in folder.glob("shard_*.bin"))
    print(f"{folder}: {request['images'] - len(skipped)} images, {size / 1e6:.1f} MB, {len(records)} shards")
    if skipped:
        print(f"skipped {len(skipped)}:")
        for name, reason in skipped.items():
            print(f"  {name}: {reason}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and give the exit code."""
    return run.run_script(CacheConfig, cache, argv)


if __name__ == "__main__":
    sys.exit(main())
