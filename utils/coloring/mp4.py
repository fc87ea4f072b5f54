"""Writing MP4 files that every browser plays, by PyAV: H.264 with the color tags of the input, its index first.

Sound and subtitles are copied packet by packet, but for what MP4 or its players do not take: such sound becomes AAC,
and SubRip's lines of text become MP4's.
"""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.stream import Stream

from utils.coloring.film import SUBRIP, Film, Moment, becomes_aac


@contextlib.contextmanager
def _without_name() -> Iterator[None]:
    """Leave the name of the temporary file out of an error: `open_atomically` says which file it is about."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror) from error


_SUBRIP_TAG = re.compile(rb"</?[a-zA-Z][^<>]*>|\{\\[^{}]*\}")  # <i>, </font>, and {\an8}, which places a line


_LAYOUTS = ("", "mono", "stereo", "2.1", "4.0", "5.0", "5.1", "6.1", "7.1")  # FFmpeg's defaults by number of channels


class Mp4:
    """An MP4 file to write: H.264, and the sound and subtitles of the film; its index comes first.

    Args:
        path: of the file; its folder exists.
        film: that it is made of.
        crf: quality as x264 counts it, from 1, the best, to 51.
        threads: for encoding.

    Raises:
        OSError: the file cannot be written; so do the methods.
    """

    @_without_name()
    def __init__(self, path: Path, film: Film, crf: int, threads: int):
        self._film, self.frames, self.broken = film, 0, 0
        self._container = av.open(f"file:{path}", "w", "mp4", container_options={"movflags": "+faststart"})
        video = self._container.add_stream(
            "libx264",
            film.rate,
            options={"crf": str(crf)},
            time_base=film.time_base,
            width=film.look.shape[1],
            height=film.look.shape[0],
            pix_fmt="yuv420p",
        )
        context, look = video.codec_context, film.look
        context.colorspace, context.color_range = look.matrix, look.color_range
        context.color_primaries, context.color_trc = look.primaries, look.transfer
        context.sample_aspect_ratio, context.thread_count = look.aspect, threads
        self._video = video
        self._aac: dict[int, av.AudioStream] = {}
        self._text: set[int] = set()
        self._copies: dict[int, Stream] = {}
        for stream in film.copied:
            if isinstance(stream, av.AudioStream) and becomes_aac(stream):
                apart = {abs(rate - stream.rate): rate for rate in av.Codec("aac", "w").audio_rates or ()}
                encoded = self._container.add_stream("aac", apart[min(apart)])
                assert isinstance(encoded, av.AudioStream)
                layout = stream.codec_context.layout  # AVI says how many channels there are, not which
                unnamed = layout.name.endswith(" channels")
                encoded.codec_context.layout = _LAYOUTS[min(layout.nb_channels, 8)] if unnamed else layout
                self._copies[stream.index] = self._aac[stream.index] = encoded
            elif stream.name in SUBRIP:
                self._copies[stream.index] = self._container.add_mux_stream("mov_text", time_base=stream.time_base)
                self._text.add(stream.index)
            else:
                self._copies[stream.index] = self._container.add_stream_from_template(stream)
        for stream in film.copied:
            copy = self._copies[stream.index]
            copy.disposition = stream.disposition
            if stream.language:
                copy.metadata["language"] = stream.language
        self._last = dict.fromkeys(self._copies, -(2**62))
        self._container.start_encoding()

    @_without_name()
    def write(self, rgb: np.ndarray, moment: Moment) -> None:
        """Add a frame, as `Film` gives it."""
        frame = self._film.look.to_yuv(rgb)
        frame.pts, frame.time_base, frame.duration = moment.start, self._film.time_base, moment.duration
        self._container.mux(self._video.encode(frame))
        self.frames += 1

    @_without_name()
    def copy(self, packet: av.Packet) -> None:
        """Add a packet of sound or subtitles; one that is damaged or that MP4 refuses is counted in `broken`."""
        index, shift = packet.stream.index, round(self._film.start / packet.time_base)
        if index in self._aac:
            self._encode(packet, shift)
            return
        if index in self._text:
            packet = _to_mov_text(packet)
        dts = packet.pts if packet.dts is None else packet.dts
        if dts is None:
            self.broken += 1
            return
        packet.dts = self._last[index] = max(dts - shift, self._last[index] + 1)
        packet.pts = packet.dts if packet.pts is None else max(packet.pts - shift, packet.dts)
        packet.stream = self._copies[index]
        try:
            self._container.mux(packet)
        except ValueError:
            self.broken += 1

    def _encode(self, packet: av.Packet, shift: int) -> None:
        stream = self._aac[packet.stream.index]
        try:
            frames = packet.decode()
        except av.FFmpegError:
            self.broken += 1
            return
        for frame in frames:
            assert isinstance(frame, av.AudioFrame)
            frame.pts = None if frame.pts is None else frame.pts - shift
            self._container.mux(stream.encode(frame))

    @_without_name()
    def finish(self) -> None:
        """Write what the encoders still hold, and the index."""
        self._container.mux(self._video.encode(None))
        for stream in self._aac.values():
            self._container.mux(stream.encode(None))
        self._container.close()

    def abandon(self) -> None:
        """Close the file, whatever is in it."""
        with contextlib.suppress(av.FFmpegError):
            self._container.close()


def _to_mov_text(packet: av.Packet) -> av.Packet:
    """Make a SubRip packet, which is text with tags, one of MP4's: the length, then the text without tags."""
    text = _SUBRIP_TAG.sub(b"", bytes(packet).rstrip(b"\r\n\0"))[:0xFFFF]
    made = av.Packet(struct.pack(">H", len(text)) + text)
    made.pts, made.dts, made.duration, made.time_base = packet.pts, packet.dts, packet.duration, packet.time_base
    return made
