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

from benchmarks.films import flicker, measure_films
from config import DEFAULT_CHECKPOINT
from utils.coloring.colorize import prepare
from utils.coloring.exported import open_generator
from utils.coloring.film import Film
from utils.coloring.video import ChromaSmoother, Link, color_frames, color_video, link_frames, move
from utils.data.sample_set import load_photo
from utils.images import Picture
from utils.lab import lightness, rgb_to_lab
from utils.training.checkpoints import working_size

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


def pan(frames: int, side: int = 160, step: int = 3) -> list[np.ndarray]:
    """Move a window over a photograph, (side, side, 3) uint8, gray."""
    photo = cv2.cvtColor(cv2.cvtColor(load_photo("coffee"), cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return [np.ascontiguousarray(photo[60 : 60 + side, x : x + side]) for x in range(40, 40 + frames * step, step)]


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


@pytest.mark.parametrize("every", [1, 2])
def test_color_frames_does_not_depend_on_the_batches(every: int) -> None:
    generator, info = open_generator(DEFAULT_CHECKPOINT, CPU)
    three, one = (  # frames at a time for each of the two threads, times `every`
        list(color_frames(pan(7), generator, working_size(info), CPU, batch_size=n, every=every)) for n in (6, 2)
    )
    for a, b in zip(three, one, strict=True):
        assert np.abs(a.astype(int) - b).max() <= 1


def test_color_frames_shows_the_network_every_third_frame_and_the_first_of_a_scene() -> None:
    seen = []

    class Counts(Halves):
        def forward(self, l: Tensor) -> Tensor:
            seen.extend(l.mean(dim=(1, 2, 3)).tolist())
            return super().forward(l)

    clip = [*pan(5), *(255 - frame for frame in pan(4))]  # the second scene begins with frame 5
    for batch_size in (2, 8):
        seen.clear()
        assert len(list(color_frames(clip, Counts(), 64, CPU, batch_size=batch_size, every=3))) == 9
        looked_at = [prepare(Picture(clip[number], None), 64).mean().item() for number in (0, 3, 5, 6)]
        np.testing.assert_allclose(sorted(seen), sorted(looked_at), atol=1e-5)


@pytest.mark.parametrize("film", ["pan", "subject"])
def test_color_frames_of_key_frames_flickers_no_more_and_looks_alike(film: str) -> None:
    generator, info = open_generator(DEFAULT_CHECKPOINT, CPU)
    clip = {"pan": pan, "subject": subject}[film](9)
    each, fourth = (list(color_frames(clip, generator, working_size(info), CPU, every=every)) for every in (1, 4))
    assert flicker(fourth) <= flicker(each)
    labs = [
        rgb_to_lab(torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2) / 255)[:, 1:] for frames in (each, fourth)
    ]
    assert (labs[0] - labs[1]).abs().mean() < 1


def noise(seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, (1, 64, 64)).astype(np.float32))


def test_smoother_of_a_still_keeps_nine_tenths_of_what_was() -> None:
    smooth, still = ChromaSmoother(memory=0.9), link_frames(noise(0), noise(0))
    red, blue = (torch.full((2, 64, 64), value) for value in (0.5, -0.5))
    torch.testing.assert_close(smooth(None, red), red)
    torch.testing.assert_close(smooth(still, blue), torch.full((2, 64, 64), 0.4))  # 0.9 * 0.5 - 0.1 * 0.5
    torch.testing.assert_close(smooth(still, blue), torch.full((2, 64, 64), 0.31))


def test_smoother_of_each_frame_mixes_it_with_the_moved_frame_before_bit_for_bit() -> None:
    planes = [prepare(Picture(frame, None), 96) for frame in pan(4)]
    links = [None, *itertools.starmap(link_frames, itertools.pairwise(planes))]
    random, smooth, earlier = np.random.default_rng(0), ChromaSmoother(0.9), np.zeros(0)
    for link in links:
        new = random.uniform(-1, 1, (96, 96, 2)).astype(np.float32)
        mixed = smooth(link, torch.from_numpy(new).permute(2, 0, 1))
        earlier = new if link is None else new + 0.9 * link.likeness[:, :, None] * (move(earlier, link.motion) - new)
        np.testing.assert_array_equal(mixed.permute(1, 2, 0).numpy(), earlier)


def test_smoother_trusts_what_came_a_long_way_less() -> None:
    smooth = ChromaSmoother(memory=0.8)
    red, blue = (torch.full((2, 8, 8), value) for value in (0.5, -0.5))
    half = Link(np.zeros((8, 8, 2), np.float32), np.full((8, 8), 0.5, np.float32))
    smooth(None, red)
    torch.testing.assert_close(smooth(half, None), red)
    torch.testing.assert_close(smooth(half, blue), torch.full((2, 8, 8), -0.3))  # a share of 0.8 * 0.5 * 0.5
    torch.testing.assert_close(smooth(half, red), torch.full((2, 8, 8), 0.18))  # of 0.8 * 0.5: a key frame before


def test_smoother_moves_color_and_trust_to_where_the_picture_went() -> None:
    smooth = ChromaSmoother(memory=1 - 1e-6)
    right = np.zeros((8, 8, 2), np.float32)
    right[:, :, 0] = -2  # each pixel was two to the left
    likeness = np.ones((8, 8), np.float32)
    likeness[:, 3] = 0
    columns = torch.arange(8.0).expand(2, 8, 8) / 10
    smooth(None, columns)
    smooth(Link(right, likeness), None)
    mixed = smooth(Link(right, np.ones((8, 8), np.float32)), torch.full((2, 8, 8), -1.0))
    expected = torch.tensor([0, 0, 0, 0, 0, -1, 0.2, 0.3]).expand(2, 8, 8)  # the border is repeated
    torch.testing.assert_close(mixed, expected, atol=1e-5, rtol=0)


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
    refused["clip.avi --every 0"] = "--every 0: must be from 1 to 16"
    for arguments, line in refused.items():
        command = [sys.executable, ROOT / "infer_lab.py", *arguments.split(), "--device", "cpu"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
        assert done.returncode == 2 and line in done.stderr and "Traceback" not in done.stderr, done.stderr
        assert "moov" not in done.stderr  # FFmpeg's own words
        assert not (tmp_path / "outputs").exists()


def test_infer_replaces_no_film(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.avi", pan(2))
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "clip.mp4").write_text("of another clip.avi")
    command = [sys.executable, ROOT / "infer_lab.py", "clip.avi", "--device", "cpu"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "clip.mp4: is there already; name another --output-dir" in done.stderr
    assert (tmp_path / "outputs" / "clip.mp4").read_text() == "of another clip.avi"


def test_infer_colors_a_clip(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.avi", pan(3))
    (tmp_path / "clip.avi").rename(tmp_path / "\udcff: 1.avi")  # a name that is neither UTF-8 nor free of colons
    command = [sys.executable, ROOT / "infer_lab.py", "\udcff: 1.avi", "--device", "cpu"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stderr
    assert "colored 3 frames" in done.stdout
    assert (tmp_path / "outputs" / "\udcff: 1.mp4").stat().st_size > 1000


def test_measure_films_gives_a_row_of_each_way_to_color_a_clip(tmp_path: Path) -> None:
    rows = list(measure_films(tmp_path, CPU, 1, [((64, 48), (1, 2))], 4))
    assert [row.part for row in rows] == ["film of 64 x 48, every 1", "film of 64 x 48, every 2"]
    assert all(row.ours > 0 and "flicker" in row.note for row in rows)
    with Film(tmp_path / "every2" / "48.mp4", 64 * 48, 1) as film:
        assert len(list(film)) == 4 and film.copied
