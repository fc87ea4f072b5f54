"""Reading and writing films: times, rotation, color, sound and subtitles, and what a browser shows of the result."""

from __future__ import annotations

import base64
import shutil
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType

import av
import cv2
import numpy as np
import pytest
import torch
from av.sidedata.sidedata import Type as SideData
from torch import Tensor, nn

from utils.coloring.film import Film, Look
from utils.coloring.video import color_video
from utils.images import MAX_PIXELS

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CPU = torch.device("cpu")
WIDTH, HEIGHT = 96, 64
RED, GREEN, BLUE, GRAY = (200, 40, 60), (20, 180, 90), (30, 60, 220), (120, 120, 120)


class Reddish(nn.Module):
    """Predict the same faint red everywhere."""

    def forward(self, l: Tensor) -> Tensor:
        return torch.full((len(l), 2, *l.shape[2:]), 0.2)


def ramp(frames: int, width: int = WIDTH, height: int = HEIGHT) -> list[np.ndarray]:
    """Draw gray frames (height, width, 3), uint8, that get brighter from left to right, from top down and in time."""
    x, y = np.meshgrid(np.linspace(30, 130, width), np.linspace(0, 60, height))
    return [np.repeat((x + y + 4 * number)[:, :, None], 3, axis=2).astype(np.uint8) for number in range(frames)]


def write_film(
    path: Path,
    frames: Sequence[np.ndarray],
    times: Sequence[int] | None = None,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    sound: str | None = None,
    subtitles: str | None = None,
    rate: int = 48000,
    x264: str = "",
    **tags: int,
) -> None:
    """Write a film; `times` are in milliseconds, ten frames a second if none are given."""
    with av.open(str(path), "w") as container:
        options = {"qp": "4", "x264-params": x264} if codec == "libx264" else {}
        video = container.add_stream(codec, 10, options=options, time_base=Fraction(1, 1000))
        video.height, video.width, video.pix_fmt = *frames[0].shape[:2], pix_fmt
        for name, tag in tags.items():
            setattr(video.codec_context, name, tag)
        audio = container.add_stream(sound, rate, layout="stereo") if sound else None
        text = container.add_mux_stream(subtitles) if subtitles else None
        if text:
            text.time_base = Fraction(1, 1000)
        for number, rgb in enumerate(frames):
            matrix = {"dst_colorspace": tags.get("colorspace", 5), "dst_color_range": tags.get("color_range", 1)}
            frame = av.VideoFrame.from_ndarray(rgb, "rgb24").reformat(format=pix_fmt, **matrix)
            frame.pts, frame.time_base = times[number] if times else 100 * number, Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio:
            tone = (8000 * np.sin(np.arange(48000) / 20)).astype(np.float32) / 32768
            chunk = av.AudioFrame.from_ndarray(np.stack([tone, tone]), "fltp", "stereo")
            chunk.sample_rate, chunk.pts = 48000, 0
            resampler = av.AudioResampler(audio.format, "stereo", rate, audio.codec_context.frame_size or 1024)
            for part in resampler.resample(chunk):
                container.mux(audio.encode(part))
            container.mux(audio.encode(None))
        if text:
            line = b"{\\an8}<i>hello</i> 1 < 2 > 0" if subtitles == "subrip" else b"hello"
            packet = av.Packet(struct.pack(">H", len(line)) + line if subtitles == "mov_text" else line)
            packet.stream, packet.time_base = text, Fraction(1, 1000)
            packet.pts, packet.dts, packet.duration = 200, 200, 500
            container.mux(packet)


def color(path: Path, **settings: int) -> tuple[Path, str]:
    """Color a film into out.mp4 beside it, and give the remark."""
    output = path.with_name("out.mp4")
    _, remark = color_video(path, output, Reddish(), 64, CPU, batch_size=4, num_workers=1, **settings)
    return output, remark


def decode(path: Path) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def payloads(path: Path, kind: str) -> list[bytes]:
    """Give what the packets of the first stream of sound or of subtitles hold."""
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(**{kind: 0}) if packet.size]


def test_color_video_keeps_the_time_of_each_frame(tmp_path: Path) -> None:
    times = [0, 40, 80, 200, 210, 700, 733]
    write_film(tmp_path / "film.mkv", ramp(7), times)
    output, _ = color(tmp_path / "film.mkv")
    frames = decode(output)
    assert [round(1000 * frame.pts * frame.time_base) for frame in frames] == times
    for before, after in zip(ramp(7), frames, strict=True):  # nor are they swapped
        assert abs(float(after.to_ndarray(format="gray").mean()) - float(before.mean())) < 12


def test_color_video_makes_whole_frames_of_interlaced_ones(tmp_path: Path) -> None:
    def bar(time: float) -> np.ndarray:
        rgb = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
        rgb[:, round(8 * time) : round(8 * time) + 12] = 220
        return rgb

    woven = [bar(number) for number in range(8)]
    for number, rgb in enumerate(woven):
        rgb[1::2] = bar(number + 0.5)[1::2]  # half a frame later
    path = tmp_path / "film.mkv"
    write_film(path, woven, x264="interlaced=1:tff=1")
    assert all(frame.interlaced_frame for frame in decode(path))
    output, remark = color(path)
    frames = decode(output)
    assert [round(1000 * frame.pts * frame.time_base) for frame in frames] == [100 * n for n in range(8)]
    combs = [int(np.abs(np.diff(f.to_ndarray(format="gray").astype(int), axis=0)).max()) for f in frames]
    assert max(combs[1:]) < 20 and "deinterlaced" in remark  # bwdif leaves the first as it is
    write_film(path, woven)
    assert "deinterlaced" not in color(path)[1]


def test_color_video_begins_at_0_where_the_film_begins_late(tmp_path: Path) -> None:
    write_film(tmp_path / "film.ts", ramp(4), [90_000, 90_100, 90_200, 90_400])
    output, _ = color(tmp_path / "film.ts")
    assert [round(1000 * frame.pts * frame.time_base) for frame in decode(output)] == [0, 100, 200, 400]


# x' = a x + c y, y' = b x + d y; the corner that is at the top left of the stored frame, and where it is shown
TURNS = {
    "clockwise": ((0, 1, -1, 0), (0, -1)),
    "counterclockwise": ((0, -1, 1, 0), (-1, 0)),
    "half": ((-1, 0, 0, -1), (-1, -1)),
    "mirrored": ((-1, 0, 0, 1), (0, -1)),
    "transposed": ((0, 1, 1, 0), (0, 0)),
}


@pytest.mark.parametrize("turn", TURNS)
def test_film_is_upright(turn: str, tmp_path: Path) -> None:
    (a, b, c, d), corner = TURNS[turn]
    frame = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
    frame[:16, :16] = 220
    write_film(tmp_path / "film.mp4", [frame] * 2)
    data = (tmp_path / "film.mp4").read_bytes()
    matrix, one = struct.Struct(">9i"), 0x10000
    still = matrix.pack(one, 0, 0, 0, one, 0, 0, 0, 0x40000000)
    header = data.index(b"tkhd")
    at = data.index(still, header)
    turned = matrix.pack(a * one, b * one, 0, c * one, d * one, 0, 0, 0, 0x40000000)
    (tmp_path / "film.mp4").write_bytes(data[:at] + turned + data[at + len(still) :])
    with Film(tmp_path / "film.mp4", MAX_PIXELS, 1) as film:
        upright = next(iter(film))
    assert upright.shape == ((WIDTH, HEIGHT, 3) if a == 0 else (HEIGHT, WIDTH, 3))
    bright = {at for at in ((0, 0), (0, -1), (-1, 0), (-1, -1)) if upright[at].min() > 150}
    assert bright == {corner}


@pytest.mark.parametrize("turn", ["clockwise", "counterclockwise", "half"])
def test_look_of_a_frame_with_unknown_side_data_is_turned_too(turn: str, tmp_path: Path) -> None:
    write_film(tmp_path / "film.mp4", ramp(1))
    (frame,) = decode(tmp_path / "film.mp4")
    a, b, c, d = TURNS[turn][0]

    class Unknown:  # what PyAV gives where it cannot read the kind of the side data
        rotation = {"clockwise": -90, "counterclockwise": 90, "half": 180}[turn]

        @property
        def side_data(self) -> dict[str, bytes]:
            raise ValueError("34 is not a valid Type")

        def __getattr__(self, name: str) -> object:
            return getattr(frame, name)

    class Known(Unknown):
        side_data = MappingProxyType({SideData.DISPLAYMATRIX: struct.pack("<9i", a, b, 0, c, d, 0, 0, 0, 1)})

    assert Look.of(Unknown(), Fraction(1)) == Look.of(Known(), Fraction(1))  # type: ignore[arg-type]


KR_KB = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}  # BT.709, BT.601, BT.2020


@pytest.mark.parametrize(("matrix", "color_range"), [(1, 1), (6, 1), (6, 2), (9, 1)])
def test_look_converts_with_the_matrix_and_the_range_of_the_film(
    matrix: int, color_range: int, tmp_path: Path
) -> None:
    write_film(tmp_path / "film.mp4", ramp(1), colorspace=matrix, color_range=color_range)
    kr, kb = KR_KB[matrix]
    with Film(tmp_path / "film.mp4", MAX_PIXELS, 1) as film:
        for rgb in (RED, GREEN, BLUE, GRAY):
            r, g, b = (level / 255 for level in rgb)
            y = kr * r + (1 - kr - kb) * g + kb * b
            u, v = (b - y) / (2 - 2 * kb), (r - y) / (2 - 2 * kr)
            scale, offset, chroma = (219, 16, 224) if color_range == 1 else (255, 0, 255)
            expected = offset + scale * y, 128 + chroma * u, 128 + chroma * v
            yuv = film.look.to_yuv(np.full((HEIGHT, WIDTH, 3), rgb, np.uint8))
            levels = [np.frombuffer(plane, np.uint8)[8] for plane in yuv.planes]
            np.testing.assert_allclose(levels, expected, atol=1.1)
            yuv.colorspace, yuv.color_range = matrix, color_range
            np.testing.assert_allclose(film.look.to_rgb(yuv)[8, 8], rgb, atol=3)


@pytest.mark.parametrize("tags", [(1, 1, 1, 1), (6, 6, 6, 2), (9, 9, 16, 1)])
def test_color_video_keeps_the_color_tags(tags: tuple[int, int, int, int], tmp_path: Path) -> None:
    names = "colorspace", "color_primaries", "color_trc", "color_range"
    write_film(tmp_path / "film.mp4", ramp(2), **dict(zip(names, tags, strict=True)))
    (frame, *_) = decode(color(tmp_path / "film.mp4")[0])
    assert tuple(int(getattr(frame, name)) for name in names) == tags and frame.format.name in ("yuv420p", "yuvj420p")


@pytest.mark.parametrize("height", [64, 720])
def test_color_video_tags_an_untagged_film_as_players_take_it(height: int, tmp_path: Path) -> None:
    write_film(tmp_path / "film.mkv", ramp(1, 64, height))
    (frame,) = decode(color(tmp_path / "film.mkv")[0])
    assert frame.colorspace == {64: 6, 720: 1}[height]


def test_color_video_copies_sound_bit_for_bit_and_names_what_mp4_cannot_hold(tmp_path: Path) -> None:
    write_film(tmp_path / "film.mkv", ramp(10), sound="aac", subtitles="ass")
    output, remark = color(tmp_path / "film.mkv")
    assert remark == "with its sound, left out, as MP4 does not hold it: subtitle (ssa)"
    assert payloads(output, "audio") == payloads(tmp_path / "film.mkv", "audio") != []
    with av.open(str(output)) as container:
        assert [stream.type for stream in container.streams] == ["video", "audio"]


@pytest.mark.parametrize(
    ("name", "kind", "rate"),
    [("film.mov", "pcm_s24le", 48000), ("pcm.mkv", "pcm_u8", 11024), ("film.mkv", "mp2", 48000)],
)
def test_color_video_turns_what_browsers_do_not_play_into_aac(
    name: str, kind: str, rate: int, tmp_path: Path
) -> None:
    write_film(tmp_path / name, ramp(10), sound=kind, rate=rate)
    output, remark = color(tmp_path / name)
    assert remark == "with its sound"
    heard = []
    for path in (tmp_path / name, output):
        with av.open(str(path)) as container:
            stream = container.streams.audio[0]
            resampler = av.AudioResampler("fltp", "stereo", 48000)
            parts = [part for frame in container.decode(stream) for part in resampler.resample(frame)]
            assert abs(float(parts[0].pts * parts[0].time_base)) < 0.03
            heard.append(np.concatenate([part.to_ndarray() for part in parts], axis=1)[:, 4800:43200])
    assert stream.codec_context.name == "aac" and stream.codec_context.layout.name == "stereo"
    before, after = (np.abs(np.fft.rfft(sound[0])) for sound in heard)
    assert before.argmax() == after.argmax() and after.max() == pytest.approx(before.max(), rel=0.1)


def test_color_video_copies_subtitles(tmp_path: Path) -> None:
    write_film(tmp_path / "film.mp4", ramp(10), sound="aac", subtitles="mov_text")
    output, remark = color(tmp_path / "film.mp4")
    assert remark == "with its sound and subtitles"
    assert b"\0\5hello" in payloads(output, "subtitles")
    assert payloads(output, "audio") == payloads(tmp_path / "film.mp4", "audio") != []


def test_color_video_turns_subrip_into_the_subtitles_of_mp4(tmp_path: Path) -> None:
    write_film(tmp_path / "film.mkv", ramp(10), subtitles="subrip")
    output, remark = color(tmp_path / "film.mkv")
    assert remark == "with its subtitles"
    with av.open(str(output)) as container:
        stream = container.streams.subtitles[0]
        said = [packet for packet in container.demux(stream) if packet.size > 2]
        assert stream.codec_context.name == "mov_text" and [bytes(packet) for packet in said] == [
            b"\0\x0fhello 1 < 2 > 0"
        ]
        assert (said[0].pts * said[0].time_base, said[0].duration * said[0].time_base) == (
            Fraction("0.2"),
            Fraction("0.5"),
        )


def test_color_video_lets_crf_choose_the_size(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (5, HEIGHT, WIDTH, 1), np.uint8).repeat(3, axis=3)
    write_film(tmp_path / "film.mp4", list(noise))
    fine, coarse = (color(tmp_path / "film.mp4", crf=crf)[0].stat().st_size for crf in (18, 40))
    assert coarse < fine / 2


def test_color_video_puts_the_index_first(tmp_path: Path) -> None:
    write_film(tmp_path / "film.mkv", ramp(3))
    data = color(tmp_path / "film.mkv")[0].read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize("name", ["film.mkv", "film.mp4"])
def test_color_video_says_how_much_of_a_cut_film_is_missing(name: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (20, HEIGHT, WIDTH, 1), np.uint8).repeat(3, axis=3)
    write_film(tmp_path / "whole.mkv", list(noise))
    if name.endswith("mp4"):  # with its index first, as it would be of no use else
        color(tmp_path / "whole.mkv", crf=4)[0].rename(tmp_path / "whole.mp4")
    data = (tmp_path / "whole").with_suffix(f".{name[-3:]}").read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) * 6 // 10])
    output, remark = color(tmp_path / name)
    frames = len(decode(output))
    assert 5 < frames < 15
    assert any(f"{20 - frames + error} more frames cannot be read" in remark for error in (-1, 0, 1))


def test_color_video_leaves_nothing_when_it_is_interrupted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupted(Reddish):
        def forward(self, l: Tensor) -> Tensor:
            raise KeyboardInterrupt

    write_film(tmp_path / "film.mp4", ramp(9), sound="aac")
    with pytest.raises(KeyboardInterrupt):
        color_video(tmp_path / "film.mp4", tmp_path / "out" / "film.mp4", Interrupted(), 64, CPU, num_workers=1)
    assert list((tmp_path / "out").iterdir()) == []

    (tmp_path / "out" / "film.mp4.tmp").write_bytes(b"of a killed process")
    frames, _ = color_video(tmp_path / "film.mp4", tmp_path / "out" / "film.mp4", Reddish(), 64, CPU, num_workers=1)
    assert frames == 9 and "begins again" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["film.mp4"]


def test_film_reads_frame_by_frame(tmp_path: Path) -> None:
    write_film(tmp_path / "film.mkv", ramp(60), codec="mjpeg", pix_fmt="yuvj420p", sound="aac")
    with Film(tmp_path / "film.mkv", MAX_PIXELS, 1) as film:
        for number, _ in enumerate(film, 1):
            assert len(film.moments) <= number + 1
            film.packets.clear()
            if number == 20:
                break
        assert len(film.moments) < 30  # no further than needed


PLAY = """async ({url, times}) => {
    const video = document.createElement("video");
    document.body.append(video);
    video.muted = true;
    const loaded = new Promise((done, fail) => {
        video.onloadeddata = done;
        video.onerror = () => fail(video.error.message);
    });
    video.src = url;
    await loaded;
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    const frames = [];
    for (const time of times) {
        const sought = new Promise(done => { video.onseeked = done; });
        video.currentTime = time;
        await sought;
        canvas.getContext("2d").drawImage(video, 0, 0);
        frames.push(canvas.toDataURL());
    }
    const ended = new Promise(done => { video.onended = done; });
    await video.play();
    await ended;
    return {duration: video.duration, width: canvas.width, height: canvas.height, end: video.currentTime, frames};
}"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt install chromium)")
def test_browser_plays_what_color_video_writes(tmp_path: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="the test needs requirements-dev.txt")
    write_film(tmp_path / "film.mkv", ramp(12, 161, 120), codec="mjpeg", pix_fmt="yuvj420p", sound="aac")
    output, _ = color(tmp_path / "film.mkv")
    url = "data:video/mp4;base64," + base64.b64encode(output.read_bytes()).decode()
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--headless", "--no-sandbox"])
        played = chromium.new_page().evaluate(PLAY, {"url": url, "times": [0.85, 0.25]})
        chromium.close()
    assert (played["width"], played["height"]) == (162, 120)
    assert played["duration"] == pytest.approx(1.2, abs=0.05) and played["end"] == pytest.approx(1.2, abs=0.05)
    frames = decode(output)
    for number, picture in zip((8, 2), played["frames"], strict=True):
        png = np.frombuffer(base64.b64decode(picture.partition(",")[2]), np.uint8)
        shown = cv2.cvtColor(cv2.imdecode(png, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB).astype(int)
        decoded = frames[number].to_ndarray(format="rgb24").astype(int)
        assert np.abs(shown - decoded).mean() < 2  # the frames beside it are 4 levels away
        assert np.ptp(decoded, axis=2).mean() > 10  # colored
