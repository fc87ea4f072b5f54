"""Coloring a video: frame by frame in batches, with the colors smoothed over time along the motion.

The network predicts each frame on its own, and its colors flicker. Here each frame's ab is mixed with that of the
frame before, moved to where its pixels went (Lei and Chen 2019, arXiv:1908.01311, describe the problem; optical flow
by Kroeger et al. 2016, arXiv:1603.03590, in OpenCV). Where the moved frame does not look like this one, only the new
prediction counts. Every frame keeps its own lightness, up to the loss of the codec.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from utils.coloring.colorize import merge, predict_ab, prepare
from utils.images import MAX_PIXELS, Picture
from utils.lab import denormalize_l
from utils.run import UserError

VIDEO_EXTENSIONS = frozenset({".mp4", ".mkv", ".avi", ".webm", ".gif", ".mov", ".m4v"})
MEMORY = 0.9  # share of the frame before in a place that looks the same
SAME_L = 6.0  # L: by a difference of this much the share has fallen to a third
TOLERANCE = 0.05  # the number of frames that a file names may be an estimate
CUT = 0.35  # a frame whose mean share of MEMORY is below this begins a new scene


class ChromaSmoother:
    """Mix each frame's ab with that of the frame before, along the motion.

    Args:
        memory: largest share of the earlier frames, in [0, 1); 0 leaves every frame as it is.
    """

    def __init__(self, memory: float = MEMORY):
        self.memory = memory
        self.flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self.l: np.ndarray | None = None
        self.ab: np.ndarray

    def __call__(self, l: Tensor, ab: Tensor) -> Tensor:
        """Smooth the next frame.

        Args:
            l: (1, h, w), in [-1, 1], what the network saw.
            ab: (2, h, w), in [-1, 1], what it predicted.

        Returns:
            (2, h, w), in [-1, 1].
        """
        now, new = denormalize_l(l)[0].numpy(), ab.permute(1, 2, 0).numpy()
        if self.l is not None and self.l.shape == now.shape:
            moved_l, moved_ab = follow(self.flow, self.l, now, self.l, self.ab)
            share = self.memory * np.exp(-(((moved_l - now) / SAME_L) ** 2))
            if share.mean() >= CUT * self.memory:
                new = new + share[:, :, None] * (moved_ab - new)
        self.l, self.ab = now, new
        return torch.from_numpy(np.ascontiguousarray(new.transpose(2, 0, 1)))


def follow(flow: cv2.DISOpticalFlow, earlier_l: np.ndarray, l: np.ndarray, *planes: np.ndarray) -> list[np.ndarray]:
    """Move planes of an earlier frame to where its pixels are in this one.

    Args:
        flow: the estimator.
        earlier_l: (h, w), in [0, 100].
        l: the same of this frame.
        planes: (h, w) or (h, w, C), float32, of the earlier frame.
    """
    now, before = (np.clip(plane * 2.55, 0, 255).astype(np.uint8) for plane in (l, earlier_l))
    # (h, w, 2): from each pixel to where it was. OpenCV's stubs do not know that None means no initial flow.
    there = flow.calc(now, before, None)  # type: ignore[call-overload]
    x, y = np.meshgrid(np.arange(l.shape[1], dtype=np.float32), np.arange(l.shape[0], dtype=np.float32))
    x, y = x + there[:, :, 0], y + there[:, :, 1]
    return [cv2.remap(plane, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for plane in planes]


def color_frames(
    frames: Iterable[np.ndarray],
    generator: nn.Module,
    img_size: int,
    device: torch.device,
    dtype: torch.dtype | None = None,
    batch_size: int = 8,
    num_workers: int = 2,
    memory: float = MEMORY,
    saturation: float = 1.0,
) -> Iterator[np.ndarray]:
    """Color frames (H, W, 3), uint8 RGB, of one size, in order; one batch of them is in memory.

    Args:
        frames: the video.
        generator: maps L (B, 1, h, w) to ab (B, 2, h, w), both in [-1, 1]; on `device`.
        img_size: shorter side at which the network works, in pixels.
        device: of the generator.
        dtype: of mixed precision, or None.
        batch_size: frames that go through the network together.
        num_workers: threads that prepare and merge.
        memory: see ChromaSmoother.
        saturation: factor on ab.
    """
    smooth, frames = ChromaSmoother(memory), iter(frames)
    with ThreadPoolExecutor(num_workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        while pictures := [Picture(frame, None) for frame in islice(frames, batch_size)]:
            planes = list(pool.map(lambda picture: prepare(picture, img_size), pictures))
            smoothed = map(smooth, planes, predict_ab(generator, planes, device, dtype))
            colors = (saturation * ab for ab in smoothed)
            yield from (colored.rgb for colored in pool.map(merge, pictures, colors))


def color_video(
    path: Path,
    output: Path,
    generator: nn.Module,
    img_size: int,
    device: torch.device,
    dtype: torch.dtype | None = None,
    batch_size: int = 8,
    num_workers: int = 2,
    max_pixels: int = MAX_PIXELS,
    saturation: float = 1.0,
) -> tuple[int, str]:
    """Color a video file into an MP4 file, whole or not at all.

    Args:
        path: what OpenCV reads.
        output: .mp4 file; its folder is made.
        generator, img_size, device, dtype, batch_size, num_workers, saturation: see `color_frames`.
        max_pixels: larger frames are refused.

    Returns:
        The number of frames, and a remark about them and about the sound.

    Raises:
        UserError: the video cannot be read, or not be written.
    """
    try:
        f"{path}{output}".encode()
    except UnicodeEncodeError:
        raise UserError(f"{path}: OpenCV opens no name that is not UTF-8; rename it") from None
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # errors are raised instead
    cv2.utils.logging.setLogLevel(0)
    video = cv2.VideoCapture(str(path))
    rate, count = video.get(cv2.CAP_PROP_FPS) or 25.0, int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    silent, sounding = (output.with_name(f"{output.stem}.{kind}.tmp.mp4") for kind in ("silent", "sounding"))
    written, writer = 0, None
    try:
        with contextlib.closing(tqdm(total=max(count, 0) or None, unit="frame")) as progress:
            settings = img_size, device, dtype, batch_size, num_workers
            frames = _read(video, path, max_pixels)
            for frame in color_frames(frames, generator, *settings, saturation=saturation):
                if writer is None:
                    output.parent.mkdir(parents=True, exist_ok=True)
                    size = frame.shape[1], frame.shape[0]
                    writer = cv2.VideoWriter(str(silent), cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
                    if not writer.isOpened():
                        raise UserError(f"{silent}: cannot be written; name another --output-dir")
                writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
                written += 1
                progress.update()
        if writer is None:
            raise UserError(f"{path}: no video, or of a kind that OpenCV cannot read")
        writer.release()  # reports no error on a full disk
        if cv2.VideoCapture(str(silent)).get(cv2.CAP_PROP_FRAME_COUNT) != written:
            raise UserError(f"{silent}: cannot be written; free some space and run it again")
        sound = _carry_sound(path, silent, sounding)
        result = sounding if sounding.exists() else silent
        with open(result, "rb") as file:
            os.fsync(file.fileno())
        os.replace(result, output)
    finally:
        video.release()
        if writer:
            writer.release()
        for temporary in (silent, sounding):
            temporary.unlink(missing_ok=True)
    few = written < (1 - TOLERANCE) * count
    return written, f"{count - written} more frames cannot be read, {sound}" if few else sound


def _read(video: cv2.VideoCapture, path: Path, max_pixels: int) -> Iterator[np.ndarray]:
    """Read frames as RGB; an odd side, which the codec cannot hold, grows by a pixel."""
    width, height = (int(video.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    if width * height > max_pixels:
        raise UserError(f"{path}: {width}x{height}: more than {max_pixels} pixels; --max-pixels raises the limit")
    while True:
        there, frame = video.read()
        if not there:
            return
        odd = [side % 2 for side in frame.shape[:2]]
        frame = cv2.copyMakeBorder(frame, 0, odd[0], 0, odd[1], cv2.BORDER_REPLICATE) if any(odd) else frame
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


def _carry_sound(path: Path, silent: Path, sounding: Path) -> str:
    """Join the colored frames with the sound of the original, if ffmpeg is there; say what came of it."""
    sounding.unlink(missing_ok=True)  # of a run that was killed
    if shutil.which("ffmpeg") is None:
        return "without sound: ffmpeg is not installed"
    inputs = ["-i", f"file:{silent}", "-i", f"file:{path}"]
    streams = ["-map", "0:v", "-map", "1:a?", "-c:v", "copy", "-c:a", "aac"]
    command = ["ffmpeg", "-v", "error", "-y", *inputs, *streams, f"file:{sounding}"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode:
        sounding.unlink(missing_ok=True)
        return f"without sound: {' '.join(done.stderr.split())[:200]}"
    return "with its sound, if it has any"
