"""Coloring many images: reading, the network and writing overlap, and the memory is bounded."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from config import InferConfig
from utils.coloring.colorize import batch_by_shape, cast_convolutions, comparison, merge, predict_ab, prepare
from utils.coloring.hints import Hints, hint_planes
from utils.images import ImageError, Picture, pixel_count, read_picture, write_png
from utils.run import UserError, amp_dtype, is_main, say

COMPARE = "compare"  # folder of the panels, in the output folder
WINDOW_PIXELS = 2**25  # read together; at most three windows are in memory: one read, one colored, one written
# The file, its pixels, and the L and the hints that the network sees
Loaded = tuple[Path, Picture, Tensor, Tensor | None]


def _windows(images: Iterable[Path], most_images: int) -> Iterator[list[Path]]:
    """Cut a listing into runs of at most `most_images` images and WINDOW_PIXELS pixels, or one larger image."""
    window: list[Path] = []
    pixels = 0
    for image in images:
        count = pixel_count(image)
        if window and (len(window) == most_images or pixels + count > WINDOW_PIXELS):
            yield window
            window, pixels = [], 0
        window.append(image)
        pixels += count
    yield window


def color_images(
    images: Sequence[Path],
    outputs: dict[Path, Path],
    generator: nn.Module,
    img_size: int,
    device: torch.device,
    cfg: InferConfig,
    hints: Mapping[Path, Hints],
) -> dict[Path, ImageError]:
    """Color images and write them; reading, the network and writing overlap.

    Args:
        images: this process' share.
        outputs: where each image goes, relative to the output folder.
        generator: on `device`; its weights are cast to the mixed precision.
        img_size: shorter side at which the network works, in pixels.
        device: of the generator.
        cfg: the command line.
        hints: of those images that have some.

    Returns:
        What could not be read or written, and why.
    """
    dtype = amp_dtype(device, cfg.amp)
    cast_convolutions(generator, dtype)
    broken: dict[Path, ImageError] = {}
    # On a CPU the network runs in the workers, each on its share of the cores and of the batch: teams of threads,
    # which wait for each other after every operation, would wait for the reading and writing as well.
    on_cpu = device.type == "cpu"
    workers = max(1, min(cfg.num_workers, len(images)))
    threads = max(1, torch.get_num_threads() // workers)
    batch_size = max(1, cfg.batch_size // workers) if on_cpu else cfg.batch_size
    lock = threading.Lock()

    def read(path: Path) -> Loaded | None:
        try:
            picture = read_picture(path, max_pixels=cfg.max_pixels)
            height, width = picture.rgb.shape[:2]
            if path in hints:
                hints[path].check(height, width)
        except ImageError as error:
            broken[path] = error
            return None
        plane = prepare(picture, img_size)
        return path, picture, plane, hint_planes(hints[path].hints, (height, width), plane) if path in hints else None

    def predict(batch: Sequence[Loaded]) -> list[Tensor]:
        nonlocal batch_size
        try:
            _, _, planes, asked = zip(*batch, strict=True)
            return predict_ab(generator, planes, device, dtype, asked)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise UserError(f"{device}: out of memory; give a smaller --img-size, or --device cpu") from None
        torch.cuda.empty_cache()  # after the except clause, which keeps what was computed so far
        half = len(batch) // 2
        if half < batch_size:
            batch_size = half
            say(f"{device}: out of memory; from here on {half} images at a time go through the network")
        return predict(batch[:half]) + predict(batch[half:])

    def write(loaded: Loaded, ab: Tensor) -> None:
        path, picture, *_ = loaded
        colored = merge(picture, cfg.saturation * ab)
        try:
            write_png(cfg.output_dir / outputs[path], colored.rgb, colored.alpha)
        except ImageError as error:
            broken[path] = error
        if cfg.compare and path not in broken:
            write_png(cfg.output_dir / COMPARE / outputs[path], comparison(picture, colored))
        with lock:
            progress.update()

    def predict_and_write(batch: Sequence[Loaded]) -> None:
        for loaded, ab in zip(batch, predict(batch), strict=True):
            write(loaded, ab)

    reading: Iterable[Loaded | None] = ()
    writing: list[Future[None]] = []
    with (
        ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads,)) as pool,
        tqdm(total=len(images), unit="image", disable=len(outputs) == 1 or not is_main()) as progress,
    ):
        try:
            for window in chain(_windows(images, 4 * cfg.batch_size), [()]):  # a last turn colors the last window
                found, reading = list(reading), pool.map(read, window)  # read while `found` is colored
                loaded = [image for image in found if image]
                with lock:
                    progress.update(len(found) - len(loaded))
                earlier, writing = writing, []
                for indices in batch_by_shape([plane for _, _, plane, _ in loaded], batch_size):
                    batch = [loaded[i] for i in indices]
                    if on_cpu:
                        writing.append(pool.submit(predict_and_write, batch))
                    else:
                        writing += [pool.submit(write, *pair) for pair in zip(batch, predict(batch), strict=True)]
                for future in earlier:
                    future.result()
            for future in writing:
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)
    return broken
