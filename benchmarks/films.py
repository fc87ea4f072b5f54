"""Films: the rate of whole processes whose network sees every Nth frame of a clip, and what becomes of the colors."""

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import av
import cv2
import numpy as np
import torch

from benchmarks.measure import Row, medians, run_python
from config import DEFAULT_CHECKPOINT
from utils.coloring.film import Film
from utils.coloring.video import find_motion, move
from utils.data.sample_set import load_photo
from utils.images import MAX_PIXELS, resize
from utils.lab import rgb_to_lab

CLIPS = (((640, 480), (1, 2, 4)), ((1280, 720), (1,)))  # width, height; N of --every, the first of them 1
FRAMES, RATE, SOUND_RATE = 60, 30, 48000
SCORED_HEIGHT = 240  # the flow between frames of full size takes longer than to color them


def write_clip(path: Path, width: int, height: int, frames: int) -> Path:
    """Write a slow pan and zoom over a photograph, with a sine as its sound."""
    photo = load_photo("coffee")
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", RATE, width=width, height=height, pix_fmt="yuv420p")
        audio = container.add_stream("aac", SOUND_RATE, layout="mono")
        for number in range(frames):
            seconds = number / RATE
            scale = 300 * 0.98**seconds / width  # pixels of the photograph in one of the frame
            window = np.array([[scale, 0, 20 + 12 * seconds], [0, scale, 40 + 6 * seconds]])
            flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
            moved = cv2.warpAffine(photo, window, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT)
            container.mux(video.encode(av.VideoFrame.from_ndarray(moved.astype(np.uint8, copy=False), "rgb24")))
            step = SOUND_RATE // RATE
            times = np.arange(number * step, (number + 1) * step) / SOUND_RATE
            tone = 0.2 * np.sin(2 * np.pi * 440 * times).astype(np.float32)
            sound = av.AudioFrame.from_ndarray(tone[None], "fltp", "mono")
            sound.sample_rate, sound.pts = SOUND_RATE, number * step
            container.mux(audio.encode(sound))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))
    return path


def to_lab(frame: np.ndarray) -> np.ndarray:
    """Convert a frame (H, W, 3), uint8 RGB, to CIELAB, (H, W, 3), float32."""
    return rgb_to_lab(torch.from_numpy(frame).permute(2, 0, 1) / 255).permute(1, 2, 0).numpy()


def flicker(frames: Iterable[np.ndarray]) -> float:
    """Give the mean absolute difference of ab between neighbors, moved onto each other by their optical flow.

    Args:
        frames: (H, W, 3), uint8 RGB, of one size.
    """
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    differences = []
    for earlier, now in itertools.pairwise(map(to_lab, frames)):
        moved = move(earlier, find_motion(flow, earlier[:, :, 0], now[:, :, 0]))
        inner = slice(12, -12)  # what came into view at the border has no earlier color
        differences.append(np.abs(moved - now)[inner, inner, 1:].mean())
    return float(np.mean(differences))


def read_small(path: Path) -> list[np.ndarray]:
    """Read a film at the height at which it is scored."""
    with Film(path, MAX_PIXELS, 1) as film:
        height, width = film.look.shape
        return [resize(frame, SCORED_HEIGHT, round(width * SCORED_HEIGHT / height)) for frame in film]


def measure_films(
    folder: Path,
    device: torch.device,
    turns: int,
    clips: Sequence[tuple[tuple[int, int], Sequence[int]]] = CLIPS,
    frames: int = FRAMES,
    checkpoint: Path = DEFAULT_CHECKPOINT,
) -> Iterator[Row]:
    """Time whole processes that color clips, one --every after the other in turns; `folder` is to work in."""
    for (width, height), steps in clips:
        clip = write_clip(folder / f"{height}.mp4", width, height, frames)

        def color(every: int, clip: Path = clip) -> float:
            output = folder / f"every{every}"
            (output / clip.name).unlink(missing_ok=True)  # infer_lab.py replaces no film
            arguments = ["--every", every, "--device", device, "--output-dir", output]
            return run_python("infer_lab.py", clip, checkpoint, *arguments)[0]

        took = medians(turns, *(functools.partial(color, every) for every in steps))
        each: list[np.ndarray] = []
        for every, seconds in zip(steps, took, strict=True):
            colored = read_small(folder / f"every{every}" / clip.name)
            each = each or colored
            far = [np.abs(to_lab(a) - to_lab(b))[:, :, 1:].mean() for a, b in zip(each, colored, strict=True)]
            note = f"{frames} frames, whole process; flicker {flicker(colored):.3f}"
            note += f", ab {np.mean(far):.2f} from every frame's" if every != steps[0] else ""
            yield Row(f"film of {width} x {height}, every {every}", "frames/s", frames / seconds, note=note)
