"""Color an image, a folder or a video at full resolution.

    python infer_lab.py IMAGE_OR_FOLDER [CHECKPOINT] [--output-dir outputs] [--recursive] [--compare]
    python infer_lab.py PHOTO [CHECKPOINT] --hints HINTS.json   # colors that you choose; a folder for several images
    python infer_lab.py CLIP.mp4 [CHECKPOINT]
    torchrun --nproc_per_node N infer_lab.py ...                # each process colors its share of the images

Reads the images and a G_*.pt file (where none is named, the newest stage's, or weights/G_default.pt if no stage has
run); writes each image as a file of its kind, size, bit depth and alpha (--format: of another kind), in the input's
folder structure, or an MP4 file.
The network sees a small copy and supplies only ab; L is the input's own, at its full resolution (Zhang,
Isola and Efros 2016, arXiv:1603.08511).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from config import DEFAULT_CHECKPOINT, FINETUNE_CHECKPOINTS, MAX_SATURATION, SUBSET_CHECKPOINTS, InferConfig
from utils.collectives import barrier, gather
from utils.coloring.colorize import cast_convolutions
from utils.coloring.exported import open_generator
from utils.coloring.folders import COMPARE, color_images
from utils.coloring.hints import find_hints, takes_hints
from utils.coloring.outputs import CONVERT, MEND, count_unread, plan
from utils.files import VIDEO_EXTENSIONS
from utils.run import (
    Interrupted,
    UserError,
    amp_dtype,
    command,
    hold,
    is_main,
    rank,
    run_script,
    say,
    set_up_device,
    world_size,
)
from utils.training.checkpoints import find_checkpoints, working_size

MOST_NAMES = 3  # named in a remark
MAX_EVERY = 16  # frames of a film that are in memory for each one that the network sees


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


def color_clip(cfg: InferConfig, generator: nn.Module, img_size: int, device: torch.device) -> None:
    """Color a video.

    Raises:
        UserError: it cannot be read, or its output not be written.
    """
    from utils.coloring.video import color_video  # PyAV takes a tenth of a second to import

    flags = {"--compare": cfg.compare, "--recursive": cfg.recursive, "--hints": cfg.hints is not None}
    flags |= {"--format": cfg.format != "same", "--quality": cfg.quality != InferConfig.quality}
    flags |= {"--from": cfg.source_tone != "auto", "--no-metadata": not cfg.metadata}
    for flag, given in flags.items():
        if given:
            raise UserError(f"{flag}: not for a video such as {cfg.input}; leave it out")
    if not 1 <= cfg.crf <= 51:
        raise UserError(f"--crf {cfg.crf}: must be from 1 to 51")
    if not 1 <= cfg.every <= MAX_EVERY:
        raise UserError(f"--every {cfg.every}: must be from 1 to {MAX_EVERY}")
    output = cfg.output_dir / f"{cfg.input.stem}.mp4"
    if output.exists():  # an earlier film's, perhaps, and hours of work
        raise UserError(f"{output}: is there already; {MEND}, or remove it")
    started = time.perf_counter()
    dtype = amp_dtype(device, cfg.amp)
    cast_convolutions(generator, dtype)
    limits = cfg.batch_size, cfg.num_workers, cfg.max_pixels, cfg.saturation, cfg.crf, cfg.every
    try:
        frames, remark = color_video(cfg.input, output, generator, img_size, device, dtype, *limits)
    except torch.OutOfMemoryError:
        raise UserError(f"{device}: out of memory; give a smaller --batch-size or --img-size") from None
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted, {output} is not written; {command()} begins again") from None
    say(f"colored {frames} frames in {time.perf_counter() - started:.1f} s, {remark}; they are in {output}")


def count_images(images: Sequence[Path], remark: str) -> str:
    """Say how many images a remark is true of, and name the first."""
    names = ", ".join(str(path) for path in sorted(images)[:MOST_NAMES])
    more = f" and {len(images) - MOST_NAMES} more" if len(images) > MOST_NAMES else ""
    return f"{len(images)} image{'s' if len(images) > 1 else ''} {remark}: {names}{more}"


def infer(cfg: InferConfig) -> None:
    """Color the images or the video that `cfg` names.

    Raises:
        UserError: the command line is wrong, or nothing could be read.
    """
    for name in ("img_size", "max_pixels", "batch_size", "num_workers"):
        if getattr(cfg, name) is not None and getattr(cfg, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(cfg, name)}: must be at least 1")
    if not 1 <= cfg.quality <= 100:
        raise UserError(f"--quality {cfg.quality}: must be between 1 and 100")
    is_video = cfg.input.is_file() and cfg.input.suffix.lower() in VIDEO_EXTENSIONS
    if not 0 <= cfg.saturation <= MAX_SATURATION:
        raise UserError(f"--saturation {cfg.saturation:g}: must be in [0, {MAX_SATURATION:g}]")
    device = set_up_device(cfg.device)
    torch.backends.cudnn.benchmark = False  # photographs have many shapes: a search for each costs more than it gains
    suffix = None if cfg.format == "same" else f".{cfg.format}"
    panels = COMPARE if cfg.compare else None
    outputs = {} if is_video else plan(cfg.input, cfg.output_dir, cfg.recursive, panels, suffix)
    for flag, given in {"--crf": cfg.crf != InferConfig.crf, "--every": cfg.every != InferConfig.every}.items():
        if given and not is_video:
            raise UserError(f"{flag}: only for a video, which {cfg.input} is not; leave it out")
    hints = {} if is_video or cfg.hints is None else find_hints(cfg.hints, outputs, cfg.recursive)
    checkpoint = cfg.checkpoint or find_checkpoint()
    generator, info = open_generator(checkpoint, device)
    if hints and not takes_hints(generator):
        raise UserError(f"{checkpoint}: takes no hints; leave --hints out, or name a G_*.pt file")
    img_size = cfg.img_size or working_size(info)
    vgg = f", perceptual loss: {info['vgg']}" if info.get("vgg") else ""
    say(f"checkpoint: {checkpoint} (stage {info['stage']}, epoch {info['epoch']}{vgg}), at {img_size} px")
    hold(cfg.output_dir)
    barrier()
    if is_video:
        if is_main():
            color_clip(cfg, generator, img_size, device)
        return
    started = time.perf_counter()
    share = list(outputs)[rank() :: world_size()]
    shares = gather(color_images(share, outputs, generator, img_size, device, cfg, hints))
    seconds = time.perf_counter() - started
    broken = {path: error for part, _ in shares for path, error in part.items()}
    if len(outputs) == 1 and broken:
        raise UserError("".join(f"{path}: {error}" for path, error in broken.items()))
    for path, error in sorted(broken.items()):
        say(f"skipped {path}: {error}")
    if len(broken) == len(outputs):
        raise UserError(f"{cfg.input}: none of its {len(outputs)} images could be colored")
    for remark in sorted({remark for _, remarks in shares for remark in remarks}):
        remarked = [path for _, remarks in shares for path in remarks.get(remark, ()) if path not in broken]
        if remarked:
            say(count_images(remarked, remark))
    if cfg.input.is_dir() and (unread := count_unread(cfg.input, cfg.output_dir, cfg.recursive)):
        say(f"left alone: {unread}; {CONVERT}")
    skipped = f", skipped {len(broken)}" if broken else ""
    count = len(outputs) - len(broken)
    say(f"colored {count} image{'s' if count > 1 else ''} in {seconds:.1f} s{skipped}; they are in {cfg.output_dir}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; gives the exit code."""
    return run_script(InferConfig, infer, argv)


if __name__ == "__main__":
    sys.exit(main())
