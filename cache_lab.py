"""Convert images to uint8 LAB once, so that training reads samples instead of decoding JPEGs.

    python cache_lab.py                                        # the filtered subset
    python cache_lab.py --images-dir data/coco/train2017       # the full data set

Reads a folder of images, or a text file with one path a line. Writes lab_cache/<its name>/: shards of (3, H, W)
uint8 images, 3 bytes a pixel, the aspect ratio kept, and index.json. Interrupted, the same command goes on
after the last whole shard. Color as in scikit-image's CIELAB (CIE 15:2004), see utils/lab.py.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import PIL
from tqdm import tqdm

from config import CacheConfig
from dataset_lab_cache import CACHE_FORMAT, cache_folder
from utils import run
from utils.files import open_atomically, read_json, write_json
from utils.images import FIRST, ImageError, list_images, map_in_threads
from utils.lab import STORED_RANGES
from utils.run import UserError
from utils.samples import image_keys, lab_planes, load_rgb, source_hash


def load_or_explain(path: Path, load_size: int) -> np.ndarray | str:
    """Give the stored LAB of an image, (3, H, W), or the reason why it cannot be used."""
    try:
        return np.stack(lab_planes(load_rgb(path, load_size)))
    except ImageError as error:
        return str(error)


def write_shard(folder: Path, number: int, images: Sequence[Path], names: Sequence[str], cfg: CacheConfig) -> dict:
    """Write one shard and give its record: the (name, height, width) of its images, and what was skipped.

    The record is kept beside the shard until the index is written: a shard with a record is whole.
    """
    entries: list[tuple[str, int, int]] = []
    skipped: dict[str, str] = {}
    with open_atomically(folder / f"shard_{number:05d}.bin") as file:
        loaded = map_in_threads(lambda path: load_or_explain(path, cfg.load_size), images, cfg.num_workers)
        for name, lab in zip(names, tqdm(loaded, f"shard {number}", len(images), unit="image"), strict=True):
            if isinstance(lab, str):
                skipped[name] = lab
            else:
                file.write(lab.tobytes())
                entries.append((name, *lab.shape[1:]))
    record = {"entries": entries, "skipped": skipped}
    write_json(folder / f"shard_{number:05d}.json", record, indent=None)
    return record


def cache(cfg: CacheConfig) -> Path:
    """Build the cache of a source and give its folder.

    Raises:
        UserError: there is nothing to cache, or the folder holds a cache for another request.
    """
    if cfg.load_size < 1 or cfg.shard_images < 1:
        raise UserError(f"--load-size {cfg.load_size} --shard-images {cfg.shard_images}: both must be at least 1")
    cv2.setNumThreads(0)
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
    request_file, index_file = folder / "request.json", folder / "index.json"
    if folder.exists():
        mend = f"delete {folder} if it is not needed"
        earlier = read_json(request_file, mend) if request_file.exists() else None
        if earlier == request and not cfg.overwrite:
            if index_file.exists():
                print(f"{folder}: already whole, {len(images)} images at {cfg.load_size} px")
                return folder
        elif earlier is None and any(folder.iterdir()):
            raise UserError(f"{folder}: holds something that cache_lab.py did not write; choose another --cache-dir")
        elif not cfg.overwrite:
            changed = ", ".join(name for name in request if earlier.get(name) != request[name])
            raise UserError(f"{folder}: holds a cache for another request ({changed}); --overwrite replaces it")
        else:
            shutil.rmtree(folder)
    write_json(request_file, request)

    records = []
    for number, first in enumerate(range(0, len(images), cfg.shard_images)):
        chunk = slice(first, first + cfg.shard_images)
        record_file = folder / f"shard_{number:05d}.json"
        if record_file.exists():
            records.append(read_json(record_file, "rerun with --overwrite"))
        else:
            records.append(write_shard(folder, number, images[chunk], names[chunk], cfg))
    skipped = {name: reason for record in records for name, reason in record["skipped"].items()}
    if len(skipped) == len(images):
        shutil.rmtree(folder)
        raise UserError(f"{cfg.images_dir}: none of its {len(images)} images can be read")
    versions = {"opencv": cv2.__version__, "numpy": np.__version__, "pillow": PIL.__version__}
    meta = {**request, "versions": versions, "commit": run.git_commit(), "skipped": skipped}
    write_json(index_file, {"meta": meta, "shards": [record["entries"] for record in records]}, indent=None)
    for number in range(len(records)):
        (folder / f"shard_{number:05d}.json").unlink()

    size = sum(path.stat().st_size for path in folder.glob("shard_*.bin"))
    print(f"{folder}: {len(images) - len(skipped)} images, {size / 1e6:.1f} MB, {len(records)} shards")
    if skipped:
        print(f"skipped {len(skipped)}:")
        for name, reason in skipped.items():
            print(f"  {name}: {reason}")
    return folder


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and give the exit code."""
    return run.run_script(CacheConfig, cache, argv)


if __name__ == "__main__":
    sys.exit(main())
