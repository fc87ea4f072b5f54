"""Color an image, a folder or a video at full resolution.

    python infer_lab.py IMAGE_OR_FOLDER [CHECKPOINT] [--output-dir outputs] [--recursive] [--compare]
    python infer_lab.py CLIP.mp4 [CHECKPOINT]
    torchrun --nproc_per_node N infer_lab.py ...                # each process colors its share of the images

Reads the images and a G_*.pt file (where none is named, the newest stage's, or weights/G_default.pt if no stage has
run); writes a PNG for each image, of its size, bit depth and alpha, in the input's folder structure, or an MP4 file.
The network sees a small copy and supplies ab alone; the lightness is the input's own, at its own resolution (Zhang,
Isola and Efros 2016, arXiv:1603.08511).
"""

from __future__ import annotations

import functools
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from config import DEFAULT_CHECKPOINT, FINETUNE_CHECKPOINTS, SUBSET_CHECKPOINTS, InferConfig
from utils.checkpoint import find_checkpoints, load_generator, training_size
from utils.colorize import batch_by_shape, cast_convolutions, comparison, merge, predict_ab, prepare
from utils.images import (
    ImageError,
    Picture,
    pixel_count,
    read_picture,
    write_png,
)
from utils.outputs import MEND, plan
from utils.run import UserError, amp_dtype, gather, hold, is_main, rank, run_script, say, set_up_device, world_size
from utils.video import VIDEO_EXTENSIONS, color_video

WINDOW_PIXELS = 2**25  # read together; at most three windows are in memory: one read, one colored, one written
COMPARE = "compare"
Loaded = tuple[Path, Picture, Tensor]  # the file, its pixels, and the L that the network sees


def _windows(images: Iterable[Path], most_images: int) -> Iterator[list[Path]]:
    """Cut a listing into runs of at most `most_images` images and WINDOW_PIXELS pixels, or one larger image."""
    window, pixels = [], 0
    for image in images:
        count = pixel_count(image)
        if window and (len(window) == most_images or pixels + count > WINDOW_PIXELS):
            yield window
            window, pixels = [], 0
        window.append(image)
        pixels += count
    yield window


def find_checkpoint() -> Path:
    """Find the newest stage's generator, or the one that comes with the project where no stage has written any.

    Raises:
        UserError: there is neither.
    """
    found = list(find_checkpoints().values())
    if not found:
        where = f"{SUBSET_CHECKPOINTS} or {FINETUNE_CHECKPOINTS}"
        raise UserError(f"no {DEFAULT_CHECKPOINT}, and no checkpoint in {where}: name a G_*.pt file")
    return found[-1]


def color_images(
    images: Sequence[Path],
    outputs: dict[Path, Path],
    generator: nn.Module,
    img_size: int,
    device: torch.device,
    cfg: InferConfig,
) -> dict[Path, ImageError]:
    """Color images and write them; reading, the network and writing overlap.

    Args:
        images: this process' share.
        outputs: where each image goes, relative to the output folder.
        generator: on `device`; its weights are cast to the mixed precision.
        img_size: shorter side at which the network works, in pixels.
        device: of the generator.
        cfg: the command line.

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
        except ImageError as error:
            broken[path] = error
            return None
        return path, picture, prepare(picture, img_size)

    def predict(batch: Sequence[Loaded]) -> list[Tensor]:
        nonlocal batch_size
        try:
            return predict_ab(generator, [plane for _, _, plane in batch], device, dtype)
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
        path, picture, _ = loaded
        colored = merge(picture, ab)
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
                for indices in batch_by_shape([plane for _, _, plane in loaded], batch_size):
                    batch = [loaded[i] for i in indices]
                    if on_cpu:
                        writing.append(pool.submit(predict_and_write, batch))
                    else:
                        writing += map(functools.partial(pool.submit, write), batch, predict(batch))
                for future in earlier:
                    future.result()
            for future in writing:
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)
    return broken


def color_clip(cfg: InferConfig, generator: nn.Module, img_size: int, device: torch.device) -> None:
    """Color a video.

    Raises:
        UserError: it cannot be read, or its output not be written.
    """
    for flag, given in {"--compare": cfg.compare, "--recursive": cfg.recursive}.items():
        if given:
            raise UserError(f"{flag}: not for a video such as {cfg.input}; leave it out")
    output = cfg.output_dir / f"{cfg.input.stem}.mp4"
    if output.exists() and output.samefile(cfg.input):
        raise UserError(f"{cfg.input}: would be overwritten; {MEND}")
    started = time.perf_counter()
    dtype = amp_dtype(device, cfg.amp)
    cast_convolutions(generator, dtype)
    limits = cfg.batch_size, cfg.num_workers, cfg.max_pixels
    try:
        frames, remark = color_video(cfg.input, output, generator, img_size, device, dtype, *limits)
    except torch.OutOfMemoryError:
        raise UserError(f"{device}: out of memory; give a smaller --batch-size or --img-size") from None
    say(f"colored {frames} frames in {time.perf_counter() - started:.1f} s, {remark}; they are in {output}")


def infer(cfg: InferConfig) -> None:
    """Color the images or the video that `cfg` names.

    Raises:
        UserError: the command line is wrong, or nothing could be read.
    """
    for name in ("img_size", "max_pixels", "batch_size", "num_workers"):
        if getattr(cfg, name) is not None and getattr(cfg, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(cfg, name)}: must be at least 1")
    device = set_up_device(cfg.device)
    torch.backends.cudnn.benchmark = False  # photographs have many shapes: a search for each costs more than it gains
    is_video = cfg.input.is_file() and cfg.input.suffix.lower() in VIDEO_EXTENSIONS
    outputs = {} if is_video else plan(cfg.input, cfg.output_dir, cfg.recursive, COMPARE if cfg.compare else None)
    checkpoint = cfg.checkpoint or find_checkpoint()
    generator, info = load_generator(checkpoint, device)
    img_size = cfg.img_size or training_size(info)
    vgg = f", VGG16 {info['vgg']}" if info.get("vgg") else ""
    say(f"checkpoint: {checkpoint} (stage {info['stage']}, epoch {info['epoch']}{vgg}), at {img_size} px")
    hold(cfg.output_dir)
    if is_video:
        if is_main():
            color_clip(cfg, generator, img_size, device)
        return
    started = time.perf_counter()
    share = list(outputs)[rank() :: world_size()]
    shares = gather(color_images(share, outputs, generator, img_size, device, cfg))
    seconds = time.perf_counter() - started
    broken = {path: error for part in shares for path, error in part.items()}
    if len(outputs) == 1 and broken:
        raise UserError("".join(f"{path}: {error}" for path, error in broken.items()))
    for path, error in sorted(broken.items()):
        say(f"skipped {path}: {error}")
    if len(broken) == len(outputs):
        raise UserError(f"{cfg.input}: none of its {len(outputs)} images can be read")
    skipped = f", skipped {len(broken)}" if broken else ""
    count = len(outputs) - len(broken)
    say(f"colored {count} image{'s' if count > 1 else ''} in {seconds:.1f} s{skipped}; they are in {cfg.output_dir}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; gives the exit code."""
    return run_script(InferConfig, infer, argv)


if __name__ == "__main__":
    sys.exit(main())
