"""Coloring many images: reading, the network and writing overlap, and the memory is bounded."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from config import InferConfig
from utils.coloring.borders import Border, cut_border, find_border, put_back
from utils.coloring.colorize import batch_by_shape, cast_convolutions, comparison, merge, predict_ab, prepare
from utils.coloring.hints import Hints, Recolorer, crop_hints, hint_planes, without_hinted
from utils.coloring.metadata import Metadata, read_metadata, to_srgb, write_with_exif
from utils.coloring.outputs import fit_container, name_outputs
from utils.coloring.toning import is_toned
from utils.images import ImageError, Picture, TooManyPixels, pixel_count, read_picture, write_png
from utils.run import UserError, amp_dtype, is_main, say

COMPARE = "compare"  # folder of the panels, in the output folder
WINDOW_PIXELS = 2**25  # read together; three windows are in memory: one read, one colored, one written
MOST_PIXELS = 3 * WINDOW_PIXELS  # in memory, but for a single image that has more
TONED = "toned, such as sepia, and colored from the lightness alone"
BORDERED = "with a uniform border, which keeps its own pixels"
PAGED = "of several pages or frames, of which the first is colored"
UNCONVERTED = "of 16 bits, their color profile ignored"


class Loaded(NamedTuple):
    """An image that was read.

    Attributes:
        path: of the file.
        picture: its pixels in sRGB.
        plane: the L that the network sees: that of the picture inside its border.
        hints: those that the network sees, (3, h, w), or None.
        border: of the picture.
        metadata: of the file.
        true_color: whether the color of the picture, if it has any, is that of what it shows.
    """

    path: Path
    picture: Picture
    plane: Tensor
    hints: Tensor | None
    border: Border
    metadata: Metadata
    true_color: bool


def _windows(images: Iterable[Path], most_images: int) -> Iterator[tuple[list[Path], int]]:
    """Cut a listing into runs of at most `most_images` images and WINDOW_PIXELS pixels, or one larger image.

    The second of each pair is their number of pixels.
    """
    window: list[Path] = []
    pixels = 0
    for image in images:
        count = pixel_count(image)
        if window and (len(window) == most_images or pixels + count > WINDOW_PIXELS):
            yield window, pixels
            window, pixels = [], 0
        window.append(image)
        pixels += count
    yield window, pixels


def color_images(
    images: Sequence[Path],
    outputs: dict[Path, Path],
    generator: nn.Module,
    img_size: int,
    device: torch.device,
    cfg: InferConfig,
    hints: Mapping[Path, Hints],
) -> tuple[dict[Path, ImageError], dict[str, list[Path]]]:
    """Color images and write them; reading, the network and writing overlap.

    At most MOST_PIXELS pixels are in memory, or one larger image.

    Args:
        images: this process' share.
        outputs: where each image goes, relative to the output folder.
        generator: on `device`; its weights are cast to the mixed precision.
        img_size: shorter side at which the network works, in pixels.
        device: of the generator.
        cfg: the command line.
        hints: of those images that have some.

    Returns:
        What could not be read or written, and why; and remarks, each with the images that it is true of.
    """
    dtype = amp_dtype(device, cfg.amp)
    cast_convolutions(generator, dtype)
    recolorer = Recolorer(generator, cfg.saturation)
    broken: dict[Path, ImageError] = {}
    remarks: defaultdict[str, list[Path]] = defaultdict(list)
    panels = dict(zip(outputs, name_outputs(list(outputs.values())), strict=True))
    # On a CPU the network runs in the workers, each on its share of the cores and of the batch: teams of threads,
    # which wait for each other after every operation, would wait for the reading and writing as well.
    on_cpu = device.type == "cpu"
    workers = max(1, min(cfg.num_workers, len(images)))
    cores = torch.get_num_threads()
    threads = max(1, cores // workers)
    batch_size = max(1, cfg.batch_size // workers) if on_cpu else cfg.batch_size
    lock = threading.Lock()

    def remark(text: str, path: Path) -> None:
        with lock:
            remarks[text].append(path)

    def read(path: Path) -> Loaded | None:
        try:
            picture = read_picture(path, max_pixels=cfg.max_pixels)
            height, width = picture.rgb.shape[:2]
            if path in hints:
                hints[path].check(height, width)
        except ImageError as error:
            mend = "; --max-pixels raises the limit" if isinstance(error, TooManyPixels) else ""
            broken[path] = ImageError(f"{error}{mend}")
            return None
        metadata = read_metadata(path)
        if metadata.pages > 1:
            remark(PAGED, path)
        converted = to_srgb(picture, metadata.profile)
        if converted is None:
            remark(UNCONVERTED, path)
        picture = converted or picture
        border = find_border(picture.rgb)
        if path in hints:
            border = without_hinted(border, hints[path].hints, height, width)
        if border:
            remark(BORDERED, path)
        inner = cut_border(picture, border)
        true_color = cfg.source_tone == "auto" and inner.has_color
        if true_color and is_toned(inner.rgb):
            remark(TONED, path)
            true_color = False
        plane, asked = prepare(inner, img_size), None
        if path in hints:
            size = inner.rgb.shape[:2]
            asked = hint_planes(crop_hints(hints[path].hints, border.top, border.left, *size), size, plane)
        return Loaded(path, picture, plane, asked, border, metadata, true_color)

    def predict(batch: Sequence[Loaded]) -> list[Tensor]:
        nonlocal batch_size
        try:
            planes, asked = [loaded.plane for loaded in batch], [loaded.hints for loaded in batch]
            return predict_ab(recolorer, planes, device, dtype, asked)
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
        path, picture, border = loaded.path, loaded.picture, loaded.border
        inner = cut_border(picture, border)
        out = None if cfg.compare else inner.rgb  # of a panel the input is a part
        few = picture.rgb.size > 3 * WINDOW_PIXELS  # images are in memory: cores are free
        merged = merge(inner, ab, out=out, threads=cores if few else threads)
        colored = put_back(picture, border, merged) if cfg.compare else picture
        written, changes = fit_container(colored, outputs[path].suffix)
        exif = loaded.metadata.exif if cfg.metadata else b""
        try:
            write_with_exif(cfg.output_dir / outputs[path], written, cfg.quality, exif, not cfg.compare)
        except ImageError as error:
            broken[path] = error
            return
        finally:
            with lock:
                progress.update()
        for change in changes:
            remark(change, path)
        if cfg.compare:
            shown = hints[path].hints if path in hints else ()
            write_png(cfg.output_dir / COMPARE / panels[path], comparison(picture, colored, loaded.true_color, shown))

    def predict_and_write(batch: list[Loaded]) -> None:
        for ab in predict(batch):
            write(batch.pop(0), ab)  # what is written leaves the memory

    def start(found: list[Loaded | None]) -> list[Future[None]]:
        loaded = [image for image in found if image]
        if broken_ones := len(found) - len(loaded):
            with lock:
                progress.update(broken_ones)
        futures: list[Future[None]] = []
        for indices in batch_by_shape([image.plane for image in loaded], batch_size):
            batch = [loaded[i] for i in indices]
            if on_cpu:
                futures.append(pool.submit(predict_and_write, batch))
            else:
                futures += [pool.submit(write, *pair) for pair in zip(batch, predict(batch), strict=True)]
        return futures

    def finish(futures: list[Future[None]]) -> None:
        for future in futures:
            future.result()
        futures.clear()

    reading: Iterable[Loaded | None] = ()
    writing: list[Future[None]] = []
    earlier_pixels = pixels = 0
    with (
        ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads,)) as pool,
        tqdm(total=len(images), unit="image", disable=len(outputs) == 1 or not is_main()) as progress,
    ):
        try:
            # A last turn colors the last window.
            for window, more_pixels in chain(_windows(images, 4 * cfg.batch_size), [([], 0)]):
                found, earlier = list(reading), writing
                fits = earlier_pixels + pixels + more_pixels <= MOST_PIXELS
                if fits:
                    reading = pool.map(read, window)  # while `found` is colored
                writing = start(found)
                found.clear()
                finish(earlier)
                if not fits:
                    if pixels + more_pixels > MOST_PIXELS:
                        finish(writing)
                    reading = pool.map(read, window)
                earlier_pixels, pixels = pixels, more_pixels
            finish(writing)
        finally:
            pool.shutdown(cancel_futures=True)
    return broken, remarks
