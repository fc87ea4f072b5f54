"""Decoding an image file by the library that decodes its kind best: Pillow or OpenCV."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from utils.files import plain_name

_EXIF_ORIENTATION = 0x0112
_REDUCED_JPEG = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
_TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_PLANES, _TIFF_EXTRA = 258, 262, 284, 338
_SWAPPED = 2**18  # pixels at a time


class ImageError(ValueError):
    """An image file cannot be used; the message says why in a few words, without the path."""


class TooManyPixels(ImageError):
    """An image has more pixels than was allowed."""


def decode(file: Image.Image, path: Path, at_least: int | None) -> np.ndarray:
    """Decode an image file.

    Args:
        file: as Pillow opened it.
        path: of it.
        at_least: pixels of both sides that a JPEG's smaller copy keeps, or None; see `read_picture`.

    Returns:
        (H, W), (H, W, 3) RGB or (H, W, 4) RGBA, uint8 or uint16, upright.

    Raises:
        ImageError: it is cut short, or of a kind that is not supported.
        Exception: of any other type, as decoders raise it on broken files.
    """
    if file.format in ("JPEG", "MPO") and file.mode in ("L", "RGB"):
        data = path.read_bytes()
        if not _jpeg_is_whole(data):
            raise ImageError("cut short: no end of image after the first scan")
        flags = cv2.IMREAD_UNCHANGED
        for factor, reduced in _REDUCED_JPEG.items():
            if at_least and min(file.size) >= factor * at_least:
                flags = reduced | cv2.IMREAD_IGNORE_ORIENTATION
        return _turn_upright(_decode_with_opencv(data, flags), _orientation(file))
    if file.format == "PNG" and _png_depth(path) == 16:
        orientation = _check_png(path)
        pixels = _turn_upright(_read_with_opencv(path), orientation)
        if pixels.ndim == 2 and "transparency" in file.info:  # OpenCV drops the transparent level of 16-bit gray
            opaque = np.where(pixels == file.info["transparency"], 0, 65535).astype(np.uint16)
            pixels = np.dstack([pixels, pixels, pixels, opaque])
        return pixels
    if isinstance(file, TiffImageFile) and max(file.tag_v2.get(_TIFF_BITS, (1,))) > 8:
        if file.tag_v2.get(_TIFF_PLANES, 1) == 2 or 1 in file.tag_v2.get(_TIFF_EXTRA, ()):
            raise ImageError("16-bit TIFF with separate planes or premultiplied alpha is not supported")
        pixels = _read_with_opencv(path)  # upright: OpenCV obeys the orientation of TIFF, and only of TIFF
        return np.iinfo(pixels.dtype).max - pixels if file.tag_v2.get(_TIFF_PHOTOMETRIC) == 0 else pixels
    has_alpha = file.has_transparency_data
    pixels = np.array(file.convert("RGBA" if has_alpha else "RGB"))  # a copy: Pillow's own is read-only
    return _turn_upright(pixels, _orientation(file))  # after decoding: Pillow itself turns TIFF, and then says 1


def _png_depth(path: Path) -> int:
    with path.open("rb") as file:
        return file.read(25)[24]  # of IHDR, which comes first


def _check_png(path: Path) -> int:
    """Raise where a PNG is cut short, which libpng would print; gives its EXIF orientation.

    Pillow's pixels, at 4 bytes each, have left the memory when this returns.
    """
    with Image.open(path, formats=("PNG",)) as file:
        file.load()
        return _orientation(file)


def _jpeg_is_whole(data: bytes) -> bool:
    """Whether the end marker follows the first scan; thumbnails before it and appended data do not count."""
    if data.endswith(b"\xff\xd9"):
        return True
    position = 2
    while data[position : position + 1] == b"\xff":
        if data[position + 1 : position + 2] == b"\xda":
            return data.find(b"\xff\xd9", position) > 0  # cannot occur inside a scan, where 00 follows each ff
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return True  # not a plain sequence of segments: the decoder will judge


def _read_with_opencv(path: Path) -> np.ndarray:
    """Decode a file as `_decode_with_opencv` does, with neither its bytes nor a copy of its pixels in memory."""
    cv2.utils.logging.setLogLevel(0)
    with suppress(cv2.error, OSError), plain_name(path) as name:  # before 4.11 OpenCV has no `dst` and raises
        pixels = cv2.imread(name, None, cv2.IMREAD_UNCHANGED)
        if pixels is not None:
            return _to_rgb(pixels)
    return _decode_with_opencv(path.read_bytes(), cv2.IMREAD_UNCHANGED)


def _decode_with_opencv(data: bytes, flags: int) -> np.ndarray:
    """Decode to (H, W), (H, W, 3) RGB or (H, W, 4) RGBA, uint8 or uint16."""
    cv2.utils.logging.setLogLevel(0)  # a broken file becomes an ImageError, not lines on stderr
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None:
        raise ImageError("cannot be decoded: broken, or of a kind that is not supported")
    return _to_rgb(pixels)


def _to_rgb(pixels: np.ndarray) -> np.ndarray:
    """Bring what OpenCV decoded, whose memory is used, to (H, W), RGB or RGBA, uint8 or uint16."""
    if pixels.dtype.kind == "f":
        if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
            raise ImageError("floating-point pixels outside [0, 1]")
        pixels = np.round(pixels * 65535).astype(np.uint16)
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"pixels of type {pixels.dtype} are not supported")
    if pixels.ndim == 2:
        return pixels
    return swap_red_and_blue(pixels)


def swap_red_and_blue(pixels: np.ndarray) -> np.ndarray:
    """Turn RGB or RGBA, (H, W, 3 or 4), into BGR or BGRA, or back, in place; gives what it was given."""
    code = cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
    rows = max(1, _SWAPPED // pixels.shape[1])
    for top in range(0, len(pixels), rows):  # OpenCV makes a copy of what it converts in place
        strip = pixels[top : top + rows]
        cv2.cvtColor(strip, code, dst=strip)
    return pixels


def _orientation(file: Image.Image) -> int:
    """Read the EXIF orientation; 1 where there is none or it is broken."""
    try:
        return file.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # broken metadata of any kind must not cost the image
        return 1


def _turn_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation (1 to 8; anything else is taken as 1)."""
    if orientation in (5, 6, 7, 8):
        pixels = np.swapaxes(pixels, 0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
