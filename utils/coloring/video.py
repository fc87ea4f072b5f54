"""Coloring a video: frame by frame in batches, with the colors smoothed over time along the motion.

The network predicts each frame on its own, and its colors flicker. Here each frame's ab is mixed with that of the
frame before, moved to where its pixels went (Lei and Chen 2019, arXiv:1908.01311, describe the problem; optical flow
by Kroeger et al. 2016, arXiv:1603.03590, in OpenCV). Where the moved frame does not look like this one, only the new
prediction counts. Every frame keeps its own lightness, up to the loss of the codec. As the network is by far the
dearest step, it may see only some of the frames, the key frames; the others take their colors along the motion.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from threading import Lock

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from utils.coloring.colorize import merge, predict_ab, prepare
from utils.coloring.film import Film
from utils.coloring.mp4 import Mp4
from utils.files import open_atomically
from utils.images import MAX_PIXELS, Picture
from utils.lab import denormalize_l
from utils.run import say

CRF = 18  # x264's quality at which few people see a difference
MEMORY = 0.9  # share of the frame before in a place that looks the same
SAME_L = 6.0  # L: by a difference of this much the share has fallen to a third
CUT = 0.35  # a frame in which a smaller part of the pixels can be followed from the one before begins a new scene
CUT_SIZE = 128  # pixels of the shorter side at which that is counted


@dataclass(frozen=True)
class Link:
    """Where the pixels of a frame were in the one before.

    Attributes:
        motion: (h, w, 2), x and y, in pixels.
        likeness: (h, w), in [0, 1]; 1 where the moved frame before looks as this one does.
    """

    motion: np.ndarray
    likeness: np.ndarray


def link_frames(earlier: Tensor, l: Tensor) -> Link | None:
    """Find the way from a frame to the one before; None across a cut.

    Args:
        earlier: (1, h, w), in [-1, 1], what the network sees of the frame before.
        l: the same of this frame.
    """
    if earlier.shape != l.shape:
        return None
    before, now = (denormalize_l(plane)[0].numpy() for plane in (earlier, l))
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)  # one cannot serve several threads
    there = find_motion(flow, before, now)
    height, width = now.shape
    scale = min(1.0, CUT_SIZE / min(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = [cv2.resize(plane, size, interpolation=cv2.INTER_AREA) for plane in (before, now, there * scale)]
    if returning(small[2], find_motion(flow, small[1], small[0])) < CUT:
        return None
    return Link(there, np.exp(-(((move(before, there) - now) / SAME_L) ** 2)))


class ChromaSmoother:
    """Mix the ab of each key frame with that of the frame before, along the motion, and carry it to the next one.

    How far the carried color can be trusted goes along with it: the product of the likenesses on its way from the
    last key frame.

    Args:
        memory: largest share of the earlier frames, in [0, 1); 0 leaves every key frame as it is.
    """

    def __init__(self, memory: float = MEMORY):
        self.memory = memory
        self.ab: np.ndarray
        self.trust: np.ndarray

    def __call__(self, link: Link | None, ab: Tensor | None) -> Tensor:
        """Smooth the next frame.

        Args:
            link: to the frame before, or None where there is none or it shows another scene.
            ab: (2, h, w), in [-1, 1], what the network predicted; None where it has not seen the frame, which then
                has a link.

        Returns:
            (2, h, w), in [-1, 1].
        """
        if link is not None:
            self.ab = move(self.ab, link.motion)
            self.trust = move(self.trust, link.motion) * link.likeness
        if ab is not None:
            new = ab.permute(1, 2, 0).numpy()
            self.ab = new if link is None else new + self.memory * self.trust[:, :, None] * (self.ab - new)
            self.trust = np.ones(new.shape[:2], np.float32)
        return torch.from_numpy(np.ascontiguousarray(self.ab.transpose(2, 0, 1)))


def find_motion(flow: cv2.DISOpticalFlow, earlier_l: np.ndarray, l: np.ndarray) -> np.ndarray:
    """Find how far from each pixel of a frame the same thing was in an earlier one, (h, w, 2), x and y, in pixels.

    Args:
        flow: the estimator.
        earlier_l: (h, w), in [0, 100].
        l: the same of this frame.
    """
    now, before = (np.clip(plane * 2.55, 0, 255).astype(np.uint8) for plane in (l, earlier_l))
    return flow.calc(now, before, None)  # type: ignore[call-overload]  # OpenCV's stubs: None means no initial flow


def move(plane: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """Move a plane of an earlier frame, (h, w) or (h, w, C), float32, to where its pixels are in this one."""
    height, width = motion.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    x, y = x + motion[:, :, 0], y + motion[:, :, 1]
    return cv2.remap(plane, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def returning(there: np.ndarray, back: np.ndarray) -> float:
    """Give the share of the pixels that motion to the earlier frame and back leaves where they are.

    It is most of them within a scene and hardly any across a cut, even if both scenes are dark or pale all over,
    where L alone finds them alike. The criterion is that of Sundaram, Brox and Keutzer 2010 (dense point trajectories
    by large displacement optical flow).
    """
    back = move(back, there)
    length = (there**2 + back**2).sum(axis=2)
    return float((((there + back) ** 2).sum(axis=2) < 0.01 * length + 0.5).mean())


Looked = tuple[list[Picture], list[Link | None], list[Tensor | None]]  # pictures, their links, and their ab


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
    every: int = 1,
) -> Iterator[np.ndarray]:
    """Color frames (H, W, 3), uint8 RGB, of one size, in order.

    Several batches are in memory, for all but the mixing of the colors runs in threads: the motion, the network (on a
    CPU each thread takes its share of a batch) and the merging of one while the caller reads and writes others.

    Args:
        frames: the video.
        generator: maps L (B, 1, h, w) to ab (B, 2, h, w), both in [-1, 1]; on `device`.
        img_size: shorter side at which the network works, in pixels.
        device: of the generator.
        dtype: of mixed precision, or None.
        batch_size: frames that go through the network together.
        num_workers: threads.
        memory: see ChromaSmoother.
        saturation: factor on ab.
        every: the network sees each frame whose number this divides, and each first one of a scene. As many times as
            many frames are in memory.
    """
    on_cpu = device.type == "cpu"
    share = max(1, batch_size // num_workers) if on_cpu else batch_size
    threads = max(1, torch.get_num_threads() // num_workers)
    gate: AbstractContextManager[object] = nullcontext() if on_cpu else Lock()  # a GPU's memory is for one batch

    def look(pictures: list[Picture], earlier: list[Picture]) -> Looked:
        """Predict the colors of pictures, and link each to the one before; `earlier` has that before the first."""
        planes = [prepare(picture, img_size) for picture in (*earlier, *pictures)]
        links = [None] * (not earlier) + [link_frames(*pair) for pair in pairwise(planes)]
        keys = [number for number, link in enumerate(links) if link is None or number % every == 0]
        predicted: list[Tensor | None] = [None] * len(pictures)
        for some in (keys[first : first + share] for first in range(0, len(keys), share)):
            with gate:
                ab = predict_ab(generator, [planes[len(earlier) + number] for number in some], device, dtype)
            for number, plane in zip(some, ab, strict=True):
                predicted[number] = plane
        return pictures, links, predicted

    def submit_all() -> Iterator[Future[Looked]]:
        earlier: list[Picture] = []
        while pictures := [Picture(frame, None) for frame in islice(frames, share * every)]:
            yield pool.submit(look, pictures, earlier)
            earlier = pictures[-1:]

    smooth, frames = ChromaSmoother(memory), iter(frames)
    training = generator.training
    generator.eval()  # before several threads do
    pool = ThreadPoolExecutor(num_workers, initializer=torch.set_num_threads, initargs=(threads,))
    try:
        submitted = submit_all()
        looking = deque(islice(submitted, num_workers + 1))
        merging: list[Future[Picture]] = []
        while looking:
            pictures, links, predicted = looking.popleft().result()
            looking.extend(islice(submitted, 1))  # the threads have work while these are mixed
            done = merging
            colors = (saturation * smooth(*pair) for pair in zip(links, predicted, strict=True))
            merging = [pool.submit(merge, *pair) for pair in zip(pictures, colors, strict=True)]
            yield from (future.result().rgb for future in done)  # merged while these were looked at
        yield from (future.result().rgb for future in merging)
    finally:
        pool.shutdown(cancel_futures=True)
        generator.train(training)


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
    crf: int = CRF,
    every: int = 1,
) -> tuple[int, str]:
    """Color a video file into an MP4 file, whole or not at all.

    Args:
        path: what FFmpeg reads.
        output: .mp4 file; its folder is made.
        generator, img_size, device, dtype, batch_size, num_workers, saturation, every: see `color_frames`.
        max_pixels: larger frames are refused.
        crf: quality as x264 counts it, from 1, the best, to 51.

    Returns:
        The number of frames, and a remark about them and about the other streams.

    Raises:
        UserError: the video cannot be read, or not be written.
    """
    with Film(path, max_pixels, num_workers) as film:
        if output.with_name(f"{output.name}.tmp").exists():
            say(f"{output}: begins again, as an earlier run was ended before it was done")
        with open_atomically(output) as file, tqdm(total=film.count, unit="frame") as progress:
            settings = img_size, device, dtype, batch_size, num_workers, MEMORY, saturation, every
            mp4 = Mp4(Path(file.name), film, crf, num_workers)
            try:
                for frame in color_frames(film, generator, *settings):
                    mp4.write(frame, film.moments.popleft())
                    while film.packets:
                        mp4.copy(film.packets.popleft())
                    progress.update()
                while film.packets:
                    mp4.copy(film.packets.popleft())
                mp4.finish()
            finally:
                mp4.abandon()
        return mp4.frames, _remark(film, mp4)


def _remark(film: Film, mp4: Mp4) -> str:
    """Say in one line what became of the film besides its frames."""
    remarks = [f"{film.missing} more frames cannot be read"] if film.missing else []
    copied = {stream.type for stream in film.copied}
    kinds = [name for kind, name in {"audio": "sound", "subtitle": "subtitles"}.items() if kind in copied]
    remarks.append(f"with its {' and '.join(kinds)}" if kinds else "without sound")
    if film.interlaced:
        remarks.append("deinterlaced")
    if mp4.broken:
        remarks.append(f"{mp4.broken} damaged packets left out")
    if film.left_out:
        remarks.append(f"left out, as MP4 does not hold it: {film.left_out}")
    return ", ".join(remarks)
