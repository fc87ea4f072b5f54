"""Reading films, all that FFmpeg reads, by PyAV: upright frames with their times, packets of sound and subtitles."""

from __future__ import annotations

import contextlib
import io
import math
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import cv2
import numpy as np
from av.sidedata.sidedata import Type as SideData
from av.stream import Stream

from utils.run import UserError

# FFmpeg's numbers (libavutil/pixfmt.h, libswscale/swscale.h); not all versions of PyAV name them.
_LIMITED_RANGE, _FULL_RANGE = 1, 2
_BT709, _SMPTE170M, _BT2020 = 1, 6, 9
_UNNAMED = (0, 2)  # reserved, unspecified
_MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}  # those of YUV that swscale knows, and how it numbers them
_ACCURATE = 0x4 | 0x2000 | 0x4000 | 0x40000  # bicubic, chroma of each pixel on both sides, exact rounding
HD_HEIGHT = 720  # from it on, players take the matrix of untagged films for BT.709, below it for BT.601
MAX_RATE = 240  # frames a second: what exceeds it is a container's mistake
SUBRIP = ("srt", "subrip")  # FFmpeg's names of subtitles that MP4 holds in another form
PLAYED = ("aac", "mp3", "opus", "flac")  # FFmpeg's names of sound that browsers play in MP4
TOLERANCE = 0.05  # the duration that a file names may be an estimate


@dataclass(frozen=True)
class Look:
    """What all frames of a film have in common; FFmpeg's numbers for the tags.

    Attributes:
        width, height: as stored, in pixels.
        matrix: of YUV; where the input names none that can be converted, the one that players take.
        color_range: 1 where black is 16 and white 235, 2 where they are 0 and 255.
        primaries, transfer: as the input says. Where it does not, those of BT.709 (BT.2020) if the range is full:
            Chromium heeds the range only of films whose tags are complete.
        swapped: whether rows are shown as columns; the next three describe the film after that.
        mirrored, upended: whether left and right, top and bottom change places.
        aspect: width of a pixel over its height.
    """

    width: int
    height: int
    matrix: int
    color_range: int
    primaries: int
    transfer: int
    swapped: bool
    mirrored: bool
    upended: bool
    aspect: Fraction

    @staticmethod
    def of(frame: av.VideoFrame, aspect: Fraction) -> Look:
        """Read the tags of a frame, and its display matrix, which counts as the nearest quarter turn."""
        matrix = frame.colorspace
        if matrix not in _MATRICES:
            matrix = _BT709 if frame.height >= HD_HEIGHT else _SMPTE170M
        is_yuv = len(frame.format.components) >= 3 and not frame.format.is_rgb
        color_range = _FULL_RANGE if is_yuv and frame.color_range == _FULL_RANGE else _LIMITED_RANGE
        primaries, transfer = frame.color_primaries, frame.color_trc
        if color_range == _FULL_RANGE:
            usual = (9, 14) if matrix == _BT2020 else (1, 1)
            primaries = usual[0] if primaries in _UNNAMED else primaries
            transfer = usual[1] if transfer in _UNNAMED else transfer
        a, b, c, d = 1.0, 0.0, 0.0, 1.0  # x' = a x + c y, y' = b x + d y (libavutil/display.h)
        try:
            # PyAV's types know one key of side data alone
            display = frame.side_data.get(SideData.DISPLAYMATRIX)  # type: ignore[call-overload]
            if display is not None:
                a, b, _, c, d = np.frombuffer(bytes(display), np.int32)[:5].tolist()
        except ValueError:  # side data unknown to PyAV, such as a spatial film's; mirrored ones come out wrong
            turn = math.radians(frame.rotation)
            a, b, c, d = math.cos(turn), -math.sin(turn), math.sin(turn), math.cos(turn)
        swapped = abs(b) + abs(c) > abs(a) + abs(d)
        mirrored, upended = (c < 0, b < 0) if swapped else (a < 0, d < 0)
        tags = matrix, color_range, primaries, transfer
        return Look(frame.width, frame.height, *tags, swapped, mirrored, upended, 1 / aspect if swapped else aspect)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, upright; an odd side, which yuv420p cannot hold, has grown by a pixel."""
        height, width = (side + side % 2 for side in (self.height, self.width))
        return (width, height) if self.swapped else (height, width)

    def to_rgb(self, frame: av.VideoFrame) -> np.ndarray:
        """Convert a frame to upright RGB, (*self.shape, 3), uint8."""
        matrix = _MATRICES.get(frame.colorspace, _MATRICES[self.matrix])
        size = self.width, self.height  # of frames whose size changes on the way, too
        rgb: np.ndarray = frame.reformat(*size, "rgb24", src_colorspace=matrix, interpolation=_ACCURATE).to_ndarray()
        rgb = rgb.transpose(1, 0, 2) if self.swapped else rgb
        rgb = np.ascontiguousarray(rgb[:: -1 if self.upended else 1, :: -1 if self.mirrored else 1])
        below, right = (grown - side for grown, side in zip(self.shape, rgb.shape, strict=False))
        return cv2.copyMakeBorder(rgb, 0, below, 0, right, cv2.BORDER_REPLICATE) if below or right else rgb

    def to_yuv(self, rgb: np.ndarray) -> av.VideoFrame:
        """Convert upright RGB, (*self.shape, 3), uint8, to yuv420p."""
        target = {"dst_colorspace": _MATRICES[self.matrix], "dst_color_range": self.color_range}
        frame = av.VideoFrame.from_ndarray(rgb, "rgb24")
        return frame.reformat(format="yuv420p", interpolation=_ACCURATE, **target)


@dataclass(frozen=True)
class Moment:
    """When a frame is shown, from when and for how long (0: not known), in units of the film's time base."""

    start: int
    duration: int


class Film:
    """A film to read from front to back, once: iterating gives its frames, as `Look.to_rgb` does.

    Args:
        path: what FFmpeg reads.
        max_pixels: larger frames are refused.
        threads: for decoding.

    Attributes:
        look: what its frames have in common.
        time_base: seconds in a unit of time.
        rate: frames a second, on average.
        count: frames that are to be expected, or None.
        copied: streams of sound and subtitles that MP4 can hold.
        left_out: the other streams, in words.
        interlaced: whether frames were interlaced, which are given whole; to be asked at the end.
        moments: when the frames are shown that were read; whoever writes them takes them out.
        packets: of the copied streams, likewise.

    Raises:
        UserError: it holds no video, or too large a one.
    """

    def __init__(self, path: Path, max_pixels: int, threads: int):
        with contextlib.ExitStack() as stack:
            try:
                # No playlist in disguise reaches the network.
                options = {"protocol_whitelist": "file"}
                container = stack.enter_context(av.open(f"file:{path}", container_options=options))
            except av.FFmpegError as error:
                raise UserError(f"{path}: no video that FFmpeg can read ({error.strerror})") from None
            video = container.streams.best("video")
            if not isinstance(video, av.VideoStream) or video.codec_context is None:
                raise UserError(f"{path}: no video in it, or of a kind that FFmpeg cannot read")
            if video.width * video.height > max_pixels:
                size = f"{video.width}x{video.height}"
                raise UserError(f"{path}: {size}: more than {max_pixels} pixels; --max-pixels raises the limit")
            video.thread_type, video.thread_count = "AUTO", threads
            self._container, self._video = container, video
            others = [stream for stream in container.streams if stream is not video]
            self.copied = [stream for stream in others if _fits_mp4(stream)]
            self.left_out = _in_words([stream for stream in others if stream not in self.copied])
            assert video.time_base is not None
            self.time_base = video.time_base
            self.rate = min(video.average_rate or video.guessed_rate or Fraction(25), Fraction(MAX_RATE))
            self._promised = Fraction(container.duration or 0, av.time_base)  # seconds
            self.count = video.frames or round(self._promised * self.rate) or None
            # MP4 counts frames that its edit list hides; AVI, when it is cut, guesses its duration from its size.
            self._promised_frames = 0 if "mp4" in container.format.name else video.frames
            self.start = Fraction(max(container.start_time or 0, 0), av.time_base)
            self.moments: deque[Moment] = deque()
            self.packets: deque[av.Packet] = deque()
            self.interlaced = False
            self._reached, self._read, self._broken = Fraction(0), 0, 0
            frames = self._decode()
            if (first := next(frames, None)) is None:
                raise UserError(f"{path}: no video in it that FFmpeg can decode")
            self.look = Look.of(first, video.sample_aspect_ratio or Fraction(1))
            self._frames = chain([first], frames)
            self._stack = stack.pop_all()

    def __enter__(self) -> Film:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __iter__(self) -> Iterator[np.ndarray]:
        return map(self.look.to_rgb, self._frames)

    @property
    def missing(self) -> int:
        """How many frames could not be read, about; to be asked at the end."""
        by_count, by_time = self._promised_frames - self._read, (self._promised - self._reached) * self.rate
        missing = by_count if self.left_out else max(by_count, round(by_time))  # what is left out may be the longest
        return missing if missing > TOLERANCE * (self._read + missing) else self._broken

    def _decode(self) -> Iterator[av.VideoFrame]:
        last, step = -1, max(1, round(1 / (self.rate * self.time_base)))
        for frame in self._deinterlace(self._decode_packets()):
            units = frame.time_base / self.time_base if frame.time_base else 1
            start = last + step if frame.pts is None else round(frame.pts * units - self.start / self.time_base)
            last = max(start, last + 1)  # times that stand still or go back are a container's mistake
            self.moments.append(Moment(last, round(frame.duration * units)))
            self._read += 1
            yield frame

    def _deinterlace(self, frames: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        """Make whole frames of interlaced ones: their combs would be in the colored film for good."""
        graph, known = None, None
        for frame in frames:
            kind = frame.width, frame.height, frame.format.name
            if graph and kind != known:
                yield from _filtered(graph, None)
                graph = None
            if not graph and frame.interlaced_frame:
                self.interlaced, known = True, kind
                graph = av.filter.Graph()
                source = graph.add_buffer(
                    width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
                )
                bwdif = graph.add("bwdif", "mode=send_frame:deint=interlaced")
                graph.link_nodes(source, bwdif, graph.add("buffersink")).configure()
            yield from _filtered(graph, frame) if graph else (frame,)
        if graph:
            yield from _filtered(graph, None)

    def _decode_packets(self) -> Iterator[av.VideoFrame]:
        for packet in chain(self._demux(), [None]):  # None: what the decoder still holds
            if packet is not None and packet.stream is not self._video:
                self.packets.append(packet)
                continue
            try:
                yield from self._video.decode(packet)
            except av.FFmpegError:
                self._broken += 1

    def _demux(self) -> Iterator[av.Packet]:
        """Read to the end of the file, or to where it is damaged."""
        with contextlib.suppress(av.FFmpegError):
            for packet in self._container.demux(self._video, *self.copied):
                if packet.size == 0:
                    continue
                if packet.pts is not None:
                    end = (packet.pts + (packet.duration or 0)) * packet.time_base - self.start
                    self._reached = max(self._reached, end)
                yield packet


def _filtered(graph: av.filter.Graph, frame: av.VideoFrame | None) -> Iterator[av.VideoFrame]:
    """Give what a filter has ready after one more frame, or after the last (None)."""
    graph.push(frame)
    with contextlib.suppress(BlockingIOError, EOFError):
        while isinstance(filtered := graph.pull(), av.VideoFrame):
            yield filtered


def becomes_aac(stream: Stream) -> bool:
    """Whether a stream is sound that can be decoded, and that browsers do not play in MP4."""
    return isinstance(stream, av.AudioStream) and stream.codec_context.codec.canonical_name not in PLAYED


def _fits_mp4(stream: Stream) -> bool:
    """Whether a stream is one of sound or subtitles that MP4 holds, or that `Mp4` converts."""
    if stream.type not in ("audio", "subtitle"):
        return False
    if stream.name in SUBRIP or becomes_aac(stream):
        return True
    try:
        with av.open(io.BytesIO(), "w", "mp4") as trial:
            trial.add_stream_from_template(stream)
            trial.start_encoding()
    except (ValueError, av.FFmpegError):
        return False
    return True


def _in_words(streams: list[Stream]) -> str:
    """Name streams by kind and codec."""
    kinds = Counter(f"{stream.type} ({stream.name})" if stream.name else stream.type for stream in streams)
    return ", ".join(f"{count} x {kind}" if count > 1 else kind for kind, count in kinds.items())
