"""Coloring a video: what moves, what stays, and what is written."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from config import DEFAULT_CHECKPOINT
from utils.coloring.exported import open_generator
from utils.coloring.video import ChromaSmoother, color_frames, color_video, find_motion, link_frames, move
from utils.data.sample_set import load_photo
from utils.lab import lightness, rgb_to_lab
from utils.training.checkpoints import working_size

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


def pan(frames: int, side: int = 160, step: int = 3) -> list[np.ndarray]:
    """Move a window over a photograph, (side, side, 3) uint8, gray."""
    photo = cv2.cvtColor(cv2.cvtColor(load_photo("coffee"), cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return [np.ascontiguousarray(photo[60 : 60 + side, x : x + side]) for x in range(40, 40 + frames * step, step)]


def flicker(frames: list[np.ndarray]) -> float:
    """Give the mean absolute difference of ab between neighbors, moved onto each other by their optical flow."""
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    labs = [rgb_to_lab(torch.from_numpy(frame).permute(2, 0, 1) / 255).permute(1, 2, 0).numpy() for frame in frames]
    differences = []
    for earlier, now in itertools.pairwise(labs):
        moved = move(earlier, find_motion(flow, earlier[:, :, 0], now[:, :, 0]))
        inner = slice(12, -12)  # what came into view at the border has no earlier color
        differences.append(np.abs(moved - now)[inner, inner, 1:].mean())
    return float(np.mean(differences))


def test_color_frames_halves_the_flicker_of_a_pan_and_keeps_the_lightness() -> None:
    generator, info = open_generator(DEFAULT_CHECKPOINT, CPU)
    clip = pan(12)
    alone, smooth = (
        list(color_frames(clip, generator, working_size(info), CPU, batch_size=5, memory=memory))
        for memory in (0.0, 0.9)
    )
    assert flicker(smooth) <= flicker(alone) / 2
    for before, after in zip(clip, smooth, strict=True):
        assert (lightness(before) - lightness(after)).abs().max() < 1


def subject(frames: int, side: int = 160, step: int = 4) -> list[np.ndarray]:
    """Move the cup of one photograph over another that stands still, (side, side, 3) uint8, gray."""
    cup, clip = cv2.resize(pan(1, 260)[0], (70, 70), interpolation=cv2.INTER_AREA), []
    cat = cv2.cvtColor(cv2.cvtColor(load_photo("chelsea"), cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    inside = cv2.circle(np.zeros((70, 70), np.uint8), (35, 35), 34, 1, -1)[:, :, None] > 0
    for x in range(10, 10 + frames * step, step):
        frame = cat[60 : 60 + side, 60 : 60 + side].copy()
        frame[50:120, x : x + 70] = np.where(inside, cup, frame[50:120, x : x + 70])
        clip.append(frame)
    return clip


def test_color_frames_lessens_the_flicker_around_a_moving_subject() -> None:
    generator, info = open_generator(DEFAULT_CHECKPOINT, CPU)
    alone, smooth = (
        list(color_frames(subject(10), generator, working_size(info), CPU, memory=memory)) for memory in (0.0, 0.9)
    )
    assert flicker(smooth) <= flicker(alone) / 2


@pytest.mark.parametrize(("contrast", "brightness"), [(1, 0), (0.25, 0), (0.25, 110)], ids=["plain", "dark", "pale"])
def test_color_frames_carries_no_color_over_a_cut(contrast: float, brightness: float) -> None:
    generator, info = open_generator(DEFAULT_CHECKPOINT, CPU)
    clip = [np.rint(frame * contrast + brightness).astype(np.uint8) for frame in (*pan(3), *subject(3))]
    alone, smooth = (
        list(color_frames(clip, generator, working_size(info), CPU, memory=memory)) for memory in (0.0, 0.9)
    )
    np.testing.assert_array_equal(smooth[3], alone[3])
    assert flicker(smooth[:3]) + flicker(smooth[3:]) <= (flicker(alone[:3]) + flicker(alone[3:])) / 2


def test_color_frames_does_not_depend_on_the_batches() -> None:
    generator, info = open_generator(DEFAULT_CHECKPOINT, CPU)
    three, two = (list(color_frames(pan(5), generator, working_size(info), CPU, batch_size=n)) for n in (3, 2))
    for a, b in zip(three, two, strict=True):
        assert np.abs(a.astype(int) - b).max() <= 1


def noise(seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, (1, 64, 64)).astype(np.float32))


def test_smoother_of_a_still_keeps_nine_tenths_of_what_was() -> None:
    smooth, still = ChromaSmoother(memory=0.9), link_frames(noise(0), noise(0))
    red, blue = (torch.full((2, 64, 64), value) for value in (0.5, -0.5))
    torch.testing.assert_close(smooth(None, red), red)
    torch.testing.assert_close(smooth(still, blue), torch.full((2, 64, 64), 0.4))  # 0.9 * 0.5 - 0.1 * 0.5
    torch.testing.assert_close(smooth(still, blue), torch.full((2, 64, 64), 0.31))


def test_link_frames_finds_none_across_a_cut() -> None:
    assert link_frames(noise(0), noise(1)) is None
    assert link_frames(noise(0), noise(0)[:, :32]) is None


def test_smoother_forgets_at_a_cut() -> None:
    smooth = ChromaSmoother()
    red, blue = (torch.full((2, 64, 64), value) for value in (0.5, -0.5))
    smooth(None, red)
    torch.testing.assert_close(smooth(link_frames(noise(0), noise(1)), blue), blue, atol=0, rtol=0)


def test_color_frames_gives_frames_while_later_ones_are_not_read_yet() -> None:
    read = []

    def film() -> Iterator[np.ndarray]:
        for frame in pan(40):
            read.append(frame)
            yield frame

    colored = color_frames(film(), Halves(), 64, CPU, batch_size=4, num_workers=2)
    next(colored)
    assert len(read) <= 12  # two frames for each thread, and as many for one more, looked at, mixed and merged
    assert sum(1 for _ in colored) == 39 and len(read) == 40


class Halves(nn.Module):
    """Predict red where it is bright and blue where it is dark."""

    def forward(self, l: Tensor) -> Tensor:
        return torch.cat([0.4 * l.sign(), 0 * l], dim=1)


def test_color_frames_multiplies_the_colors_by_the_saturation() -> None:
    bright = [np.full((64, 64, 3), 150, np.uint8)] * 2
    for saturation, a in ((0.0, 0), (0.25, 11), (0.5, 22)):  # of 0.4 * 110
        for frame in color_frames(bright, Halves(), 64, CPU, saturation=saturation):
            lab = rgb_to_lab(torch.from_numpy(frame).permute(2, 0, 1) / 255)
            assert (lab[1] - a).abs().max() < 1 and lab[2].abs().max() < 1


def write_clip(path: Path, frames: list[np.ndarray]) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, frames[0].shape[1::-1])
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()


def test_color_video_writes_as_many_frames_of_the_same_size_and_rate(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.avi", pan(11))
    frames, sound = color_video(tmp_path / "clip.avi", tmp_path / "out" / "clip.mp4", Halves(), 64, CPU, None, 4)
    assert frames == 11 and sound
    video = cv2.VideoCapture(str(tmp_path / "out" / "clip.mp4"))
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    there, frame = video.read()
    assert there and frame.shape == (160, 160, 3) and np.ptp(frame.astype(int), axis=2).max() > 20
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["clip.mp4"]


def test_color_video_pads_odd_sides(tmp_path: Path) -> None:
    first, *others = (Image.fromarray(frame[:101, :97]) for frame in pan(6))
    first.save(tmp_path / "odd.gif", save_all=True, append_images=others, duration=100)
    frames, _ = color_video(tmp_path / "odd.gif", tmp_path / "odd.mp4", Halves(), 64, CPU)
    assert frames == 6
    there, frame = cv2.VideoCapture(str(tmp_path / "odd.mp4")).read()
    assert there and frame.shape == (102, 98, 3)


def test_color_video_says_what_is_missing(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.avi", pan(20))
    whole = (tmp_path / "clip.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) // 2])
    frames, remark = color_video(tmp_path / "cut.avi", tmp_path / "cut.mp4", Halves(), 64, CPU)
    assert 5 < frames < 15 and f"{20 - frames} more frames cannot be read" in remark
    assert cv2.VideoCapture(str(tmp_path / "cut.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == frames


def test_infer_refuses_what_is_no_clip_in_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_bytes(b"no video")
    write_clip(tmp_path / "clip.avi", pan(2))
    refused = {"text.mp4": "no video", "clip.avi --compare": "--compare: not for a video"}
    refused["clip.avi --max-pixels 1000"] = "160x160: more than 1000 pixels"
    refused["clip.avi --crf 60"] = "--crf 60: must be from 1 to 51"
    for arguments, line in refused.items():
        command = [sys.executable, ROOT / "infer_lab.py", *arguments.split(), "--device", "cpu"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
        assert done.returncode == 2 and line in done.stderr and "Traceback" not in done.stderr, done.stderr
        assert "moov" not in done.stderr  # FFmpeg's own words
        assert not (tmp_path / "outputs").exists()


def test_infer_colors_a_clip(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.avi", pan(3))
    (tmp_path / "clip.avi").rename(tmp_path / "\udcff: 1.avi")  # a name that is neither UTF-8 nor free of colons
    command = [sys.executable, ROOT / "infer_lab.py", "\udcff: 1.avi", "--device", "cpu"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stderr
    assert "colored 3 frames" in done.stdout
    assert (tmp_path / "outputs" / "\udcff: 1.mp4").stat().st_size > 1000
