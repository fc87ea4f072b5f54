"""Color an image or a folder at full resolution.

    python infer_lab.py IMAGE_OR_FOLDER [CHECKPOINT] [--output-dir outputs] [--recursive] [--compare]

Reads the images and a G_*.pt file (the newest stage's where none is named); writes a PNG for each image, of its
size, bit depth and alpha, in the input's folder structure. The network sees a small copy and supplies ab alone;
the lightness is the input's own, at its own resolution (Zhang, Isola and Efros 2016, arXiv:1603.08511).
"""

from __future__ import annotations

import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from config import FINETUNE_CHECKPOINTS, SUBSET_CHECKPOINTS, InferConfig
from utils.checkpoint import find_stage_checkpoints, load_generator, training_size
from utils.images import (
    IMAGE_EXTENSIONS,
    MAX_ASPECT,
    ImageError,
    Picture,
    list_images,
    name_outputs,
    pixel_count,
    read_picture,
    resize,
    write_png,
)
from utils.lab import denormalize_ab, fit_gamut, lab_to_rgb, normalize_l, rgb_to_lab
from utils.run import UserError, run_script, say, set_up_device

STRIP_PIXELS = 2**17  # merged at a time
WINDOW_PIXELS = 2**25  # read together; at most three windows are in memory: one read, one colored, one written
COMPARE = "compare"
PANEL_SIDE, PANEL_GAP = 1024, 8  # most pixels of a panel's longer side; white pixels between panels


def working_shape(height: int, width: int, img_size: int) -> tuple[int, int]:
    """Give the height and width that the network sees: shorter side `img_size`, the aspect ratio kept.

    Smaller images are enlarged to it, as they were for training: the network knows things at that scale. The
    longer side ends at MAX_ASPECT times `img_size`, whatever the shorter side is then.
    """
    scale = min(img_size / min(height, width), MAX_ASPECT * img_size / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _to_lab(rgb: np.ndarray) -> Tensor:
    """Convert (H, W, 3) of 8 or 16 bit to CIELAB (3, H, W), float32."""
    planes = rgb.transpose(2, 0, 1).astype(np.float32, order="C")
    return rgb_to_lab(torch.from_numpy(planes / np.float32(np.iinfo(rgb.dtype).max)))


def _to_pixels(lab: Tensor, dtype: np.dtype) -> np.ndarray:
    """Convert CIELAB (3, H, W) to (H, W, 3) of 8 or 16 bit."""
    return (lab_to_rgb(lab) * np.iinfo(dtype).max).round().numpy().transpose(1, 2, 0).astype(dtype)


def prepare(picture: Picture, img_size: int) -> Tensor:
    """Make what the network sees of a picture: L at the working size, (1, h, w), in [-1, 1]."""
    return normalize_l(_to_lab(resize(picture.rgb, *working_shape(*picture.rgb.shape[:2], img_size)))[:1])


def predict_ab(generator: nn.Module, lightness: Sequence[Tensor], device: torch.device) -> Tensor:
    """Run the generator in eval mode on B planes L (1, h, w); gives ab (B, 2, h, w) on the CPU, both in [-1, 1]."""
    training = generator.training
    generator.eval()
    try:
        with torch.inference_mode():
            return generator(torch.stack(list(lightness)).to(device)).float().cpu()
    finally:
        generator.train(training)


@torch.inference_mode()
def merge(picture: Picture, ab: Tensor, strip_pixels: int = STRIP_PIXELS) -> Picture:
    """Give a picture the predicted color and leave it its lightness; what sRGB cannot show is moved toward gray.

    Args:
        picture: the input, (H, W).
        ab: (2, h, w), in [-1, 1]; enlarged bilinearly.
        strip_pixels: pixels merged at a time, which bounds the memory; it moves the result by float rounding alone.

    Returns:
        A picture of the input's size, bit depth and alpha.
    """
    height, width = picture.rgb.shape[:2]
    small = (min(ab.shape[1], height), width)  # the height is enlarged strip by strip
    ab = F.interpolate(denormalize_ab(ab)[None], small, mode="bilinear", antialias=True)[0]
    # rgb_to_lab, as skimage's, puts gray beside ab = 0: uncorrected, 16-bit gray comes back up to 2 levels off.
    gray_ab = rgb_to_lab(torch.ones(3, 1, 1))[1:] / 100  # for each unit of L
    colored = np.empty_like(picture.rgb)
    rows = max(1, strip_pixels // width)
    for top in range(0, height, rows):
        lab = _to_lab(picture.rgb[top : top + rows])  # (3, rows, W)
        source = (torch.arange(top, top + lab.shape[1]) + 0.5) * (small[0] / height) - 0.5
        source = source.clamp(0, small[0] - 1)
        above = source.long()
        below = (above + 1).clamp(max=small[0] - 1)
        lab[1:] = torch.lerp(ab[:, above], ab[:, below], (source - above)[:, None]) + gray_ab * lab[:1]
        colored[top : top + rows] = _to_pixels(fit_gamut(lab), colored.dtype)
    return Picture(colored, picture.alpha)


def _batches(lightness: Sequence[Tensor], batch_size: int) -> Iterator[list[int]]:
    """Group the indices of planes of equal shape, at most `batch_size` together."""
    groups = defaultdict(list)
    for index, plane in enumerate(lightness):
        groups[plane.shape].append(index)
    for group in groups.values():
        yield from (group[start : start + batch_size] for start in range(0, len(group), batch_size))


def colorize_batch(
    generator: nn.Module, pictures: Sequence[Picture], img_size: int, device: torch.device, batch_size: int = 8
) -> list[Picture]:
    """Color pictures of any shapes; those of one working shape go through the network together.

    Args:
        generator: maps L (B, 1, h, w) to ab (B, 2, h, w), both in [-1, 1]; on `device`.
        pictures: as `read_picture` gives them.
        img_size: shorter side at which the network works, in pixels.
        device: of the generator.
        batch_size: most pictures in one call of the generator.
    """
    lightness = [prepare(picture, img_size) for picture in pictures]
    colored = list(pictures)
    for batch in _batches(lightness, batch_size):
        for index, ab in zip(batch, predict_ab(generator, [lightness[i] for i in batch], device), strict=True):
            colored[index] = merge(pictures[index], ab)
    return colored


def colorize(generator: nn.Module, picture: Picture, img_size: int, device: torch.device) -> Picture:
    """Color one picture, as `colorize_batch` does."""
    return colorize_batch(generator, [picture], img_size, device)[0]


def comparison(picture: Picture, colored: Picture) -> np.ndarray:
    """Put input (its L as gray) | output | truth (where the input has color) in a row, (H, W, 3) uint8, no alpha."""
    height, width = picture.rgb.shape[:2]
    scale = min(1.0, PANEL_SIDE / max(height, width))
    shape = max(1, round(height * scale)), max(1, round(width * scale))
    truth, output = resize(picture.rgb, *shape), resize(colored.rgb, *shape)
    lab = _to_lab(truth)
    lab[1:] = 0
    gray = _to_pixels(lab, truth.dtype)[:, :, 1:2].repeat(3, axis=2)
    gap = np.full((shape[0], PANEL_GAP, 3), np.iinfo(truth.dtype).max, truth.dtype)
    row = np.hstack([gray, gap, output, *([gap, truth] if picture.has_color else [])])
    return row if row.dtype == np.uint8 else np.round(row / 257.0).astype(np.uint8)


def plan(cfg: InferConfig) -> dict[Path, Path]:
    """Map each image of the input to its output, relative to the output folder.

    Raises:
        UserError: there is no image, or an output would overwrite an input.
    """
    source, output_dir, mend = cfg.input, cfg.output_dir.resolve(), "name another --output-dir"
    if output_dir.exists() and not output_dir.is_dir():
        raise UserError(f"{cfg.output_dir}: not a folder; {mend}")
    if output_dir == source.resolve():
        raise UserError(f"{cfg.output_dir}: the outputs would mix with the inputs; {mend}")
    if source.is_dir():
        root, images = source, list_images(source, cfg.recursive)
        if output_dir.is_relative_to(source.resolve()):  # what an earlier run wrote is no input
            images = [path for path in images if not path.parent.resolve().is_relative_to(output_dir)]
        if not images:
            raise UserError(f"{source}: no images there but in {cfg.output_dir}")
    else:
        single = source.is_file() and source.suffix.lower() in IMAGE_EXTENSIONS
        images = list(dict.fromkeys(Path(os.path.abspath(path)) for path in [source] * single or list_images(source)))
        try:
            root = Path(os.path.commonpath([path.parent for path in images]))
        except ValueError:  # Windows
            raise UserError(f"{source}: its images are on several drives; make a list for each") from None
    names = name_outputs([path.relative_to(root) for path in images])
    inputs = {identity: path for path in images if (identity := _identity(path))}
    for folder in [output_dir, output_dir / COMPARE][: 1 + cfg.compare]:
        for name in names:
            if (identity := _identity(folder / name)) in inputs:
                raise UserError(f"{inputs[identity]}: would be overwritten; {mend}")
    if cfg.compare and any(name.parts[0].casefold() == COMPARE for name in names):
        raise UserError(f"{root / COMPARE}: its outputs would mix with the panels; rename it or leave --compare out")
    return dict(zip(images, names, strict=True))


def _identity(path: Path) -> tuple[int, int] | None:
    """Identify a file whatever it is called (links, letter case); None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


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
    """Find the newest stage's generator.

    Raises:
        UserError: no stage has written one.
    """
    found = list(find_stage_checkpoints().values())
    if not found:
        where = f"{SUBSET_CHECKPOINTS} or {FINETUNE_CHECKPOINTS}"
        raise UserError(f"no checkpoint in {where}; run python train_lab.py first, or name a G_*.pt file")
    return found[-1]


def infer(cfg: InferConfig) -> None:
    """Color the images that `cfg` names; reading, the network and writing overlap.

    Raises:
        UserError: the command line is wrong, or no image could be read.
    """
    for name in ("img_size", "batch_size", "num_workers"):
        if getattr(cfg, name) is not None and getattr(cfg, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(cfg, name)}: must be at least 1")
    device = set_up_device(cfg.device)
    outputs = plan(cfg)
    checkpoint = cfg.checkpoint or find_checkpoint()
    generator, info = load_generator(checkpoint, device)
    img_size = cfg.img_size or training_size(info)
    vgg = f", VGG16 {info['vgg']}" if info.get("vgg") else ""
    say(f"checkpoint: {checkpoint} (stage {info['stage']}, epoch {info['epoch']}{vgg}), at {img_size} px")
    broken: dict[Path, ImageError] = {}

    def read(path: Path) -> tuple[Path, Picture, Tensor] | None:
        try:
            picture = read_picture(path)
        except ImageError as error:
            broken[path] = error
            return None
        return path, picture, prepare(picture, img_size)

    def write(path: Path, picture: Picture, ab: Tensor) -> None:
        colored = merge(picture, ab)
        write_png(cfg.output_dir / outputs[path], colored.rgb, colored.alpha)
        if cfg.compare:
            write_png(cfg.output_dir / COMPARE / outputs[path], comparison(picture, colored))

    started = time.perf_counter()
    reading: Iterable[tuple[Path, Picture, Tensor] | None] = ()
    writing: list[Future[None]] = []
    with (
        # Workers compute on one core each: teams of threads for every small step would cost more than they gain.
        ThreadPoolExecutor(cfg.num_workers, initializer=torch.set_num_threads, initargs=(1,)) as pool,
        tqdm(total=len(outputs), unit="image", disable=len(outputs) == 1) as progress,
    ):
        try:
            for window in chain(_windows(outputs, 4 * cfg.batch_size), [()]):  # a last turn colors the last window
                found, reading = list(reading), pool.map(read, window)  # read while `found` is colored
                loaded = [image for image in found if image]
                progress.update(len(found) - len(loaded))
                earlier, writing = writing, []
                for batch in _batches([lightness for _, _, lightness in loaded], cfg.batch_size):
                    predicted = predict_ab(generator, [loaded[i][2] for i in batch], device)
                    for i, ab in zip(batch, predicted, strict=True):
                        writing.append(pool.submit(write, *loaded[i][:2], ab))
                    progress.update(len(batch))
                for future in earlier:
                    future.result()
            for future in writing:
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)
    seconds = time.perf_counter() - started
    if len(outputs) == 1 and broken:
        raise UserError("".join(f"{path}: {error}" for path, error in broken.items()))
    for path, error in sorted(broken.items()):
        say(f"skipped {path}: {error}")
    if len(broken) == len(outputs):
        raise UserError(f"{cfg.input}: none of its {len(outputs)} images can be read")
    skipped = f", skipped {len(broken)}" if broken else ""
    say(f"colored {len(outputs) - len(broken)} images in {seconds:.1f} s{skipped}; they are in {cfg.output_dir}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; gives the exit code."""
    return run_script(InferConfig, infer, argv)


if __name__ == "__main__":
    sys.exit(main())
