"""What an image file says beside its pixels: the date, the camera and the place of EXIF, and its color profile.

All of it comes from strangers: whatever cannot be read counts as absent, and never costs the picture.
"""

from __future__ import annotations

import functools
import io
import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms

from utils.files import JPEG_EXTENSIONS, write_bytes
from utils.images import HOLD_16_BIT, HOLD_NO_ALPHA, IMAGE_FORMATS, LARGE, Picture, encode_image, write_large

_MAX_VALUE = 2000  # bytes of one entry
_MAX_PROFILE = 2**24  # bytes
_TOP = (270, 271, 272, 305, 306, 315, 33432)  # description, make, model, software, date, artist, copyright
# Exposure, dates and their zones, lens and camera, by their numbers in the EXIF specification. Left out is what no
# longer holds (size, color space, thumbnail), and what only the maker can read.
_EXIF = frozenset({33434, 33437, *range(34850, 34868), *range(36864, 36883), *range(37377, 37387)})
_EXIF |= {*range(37520, 37523), *range(41483, 41497), *range(41985, 41997), *range(42032, 42038)}
_GPS = frozenset(range(32))
_PILLOW_KINDS = dict.fromkeys(JPEG_EXTENSIONS, "JPEG") | {".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
_PAGED = ("TIFF", "WEBP", "PNG")  # the second picture of an MPO, a kind of JPEG, is a preview
_PNG_HEADER = 33  # bytes before the first chunk that may be an eXIf
_SAME_LEVELS = 2  # of 255, by which a profile may differ from sRGB and count as it


@dataclass(frozen=True)
class Metadata:
    """What is kept of a file beside its pixels.

    Attributes:
        exif: date, camera and place, as `Image.Exif.tobytes` gives them; empty where there are none.
        profile: its ICC profile; empty where there is none.
        pages: of a TIFF, or frames of an animation; only the first is read.
    """

    exif: bytes = b""
    profile: bytes = b""
    pages: int = 1


def read_metadata(path: Path) -> Metadata:
    """Read what a file says beside its pixels, from its header."""
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as file:
            profile = file.info.get("icc_profile")
            if not (isinstance(profile, bytes) and len(profile) <= _MAX_PROFILE):
                profile = b""
            pages = getattr(file, "n_frames", 1) if file.format in _PAGED else 1
            # PngImageFile's own getexif decodes the pixels.
            return Metadata(select_exif(Image.Image.getexif(file)), profile, pages)
    except Exception:  # decoders raise errors of every type on broken files
        return Metadata()


def select_exif(source: Image.Exif) -> bytes:
    """Copy date, camera and place out of a file's EXIF; what is broken is left out.

    The orientation is left out, as images are written upright, and so are the thumbnail and the size.
    """
    chosen = Image.Exif()
    for tag in _TOP:
        with suppress(Exception):
            if _is_writable(tag, source[tag]):
                chosen[tag] = source[tag]
    for pointer, tags in ((ExifTags.IFD.Exif, _EXIF), (ExifTags.IFD.GPSInfo, _GPS)):
        with suppress(Exception):
            entries = source.get_ifd(pointer).items()
            if kept := {tag: value for tag, value in entries if tag in tags and _is_writable(tag, value)}:
                chosen[pointer] = kept
    return chosen.tobytes() if len(chosen) else b""


def _is_writable(tag: int, value: object) -> bool:
    """Whether Pillow can write an entry, and it is of a sensible size."""
    entry = Image.Exif()
    entry[tag] = value
    with suppress(Exception):
        return len(entry.tobytes()) <= _MAX_VALUE
    return False


def encode_with_exif(suffix: str, picture: Picture, quality: int, exif: bytes, overwrite: bool = False) -> bytes:
    """Encode a picture as `encode_image` does, with EXIF where the file can hold it: JPEG, PNG, WebP and 8-bit TIFF.

    TIFF is not compressed then: libtiff's compressions and nested EXIF do not go together in Pillow.

    Args:
        suffix: of the file.
        picture: the pixels.
        quality: of JPEG and WebP, 1 to 100.
        exif: as `select_exif` gives it, or empty.
        overwrite: the pixels may be lost, as in `encode_image`.

    Raises:
        ImageError: the format cannot hold so large a picture.
    """
    kind = _PILLOW_KINDS.get(suffix.lower())
    if exif and kind and picture.rgb.dtype == np.uint8:
        pixels = picture.rgb
        if picture.alpha is not None and suffix.lower() not in HOLD_NO_ALPHA:
            pixels = np.dstack([pixels, picture.alpha])
        buffer = io.BytesIO()
        with suppress(Exception):  # too much EXIF, or too large a picture: encode_image will say so
            Image.fromarray(pixels).save(buffer, kind, quality=quality, exif=exif)
            return buffer.getvalue()
    data = encode_image(suffix, picture, quality, overwrite)
    if exif and suffix.lower() == ".png":  # Pillow has no 16-bit color
        chunk = b"eXIf" + exif.removeprefix(b"Exif\0\0")
        chunk = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        data = data[:_PNG_HEADER] + chunk + data[_PNG_HEADER:]
    return data


def write_with_exif(path: Path, picture: Picture, quality: int, exif: bytes, overwrite: bool = False) -> None:
    """Write what `encode_with_exif` gives, whole or not at all; a large picture of 16 bits in little memory.

    Raises:
        ImageError: the format cannot hold so large a picture.
    """
    suffix = path.suffix.lower()
    large = picture.rgb.dtype == np.uint16 and picture.rgb.shape[0] * picture.rgb.shape[1] >= LARGE
    if large and suffix in HOLD_16_BIT and not (exif and suffix == ".png"):
        write_large(path, picture, overwrite)
    else:
        write_bytes(path, encode_with_exif(suffix, picture, quality, exif, overwrite))


def to_srgb(picture: Picture, profile: bytes) -> Picture | None:
    """Convert a picture from its ICC profile to sRGB, by relative colorimetry with black point compensation.

    Args:
        picture: as decoded: RGB, or gray as three equal channels.
        profile: of a file, or empty; one of any other kind than RGB and gray has no meaning for such pixels.

    Returns:
        The picture in sRGB, or itself where the profile is sRGB, broken or of another kind; None for 16-bit pixels
        of another RGB or gray profile, which Pillow cannot convert.
    """
    transform = _transform(profile) if profile else None
    if transform is None:
        return picture
    if picture.rgb.dtype != np.uint8:
        return None
    rgb = _apply(transform, picture.rgb)
    if not picture.has_color:  # gray stays gray, whatever the rounding
        rgb = np.repeat(rgb[:, :, 1:2], 3, axis=2)
    return Picture(rgb, picture.alpha)


def _apply(transform: ImageCms.ImageCmsTransform, rgb: np.ndarray) -> np.ndarray:
    """Convert (H, W, 3) uint8 to sRGB."""
    image = Image.fromarray(rgb)
    if transform.input_mode == "L":
        image = image.getchannel(1)
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None
    return np.array(converted)


@functools.lru_cache(maxsize=16)
def _transform(profile: bytes) -> ImageCms.ImageCmsTransform | None:
    """Prepare the conversion from a profile to sRGB; None where nothing is to be converted."""
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = {"RGB": "RGB", "GRAY": "L"}.get(opened.profile.xcolor_space.strip())
        if mode is None:
            return None
        srgb = ImageCms.createProfile("sRGB")
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
        transform = ImageCms.buildTransform(opened, srgb, mode, "RGB", intent, flags)
        steps = np.linspace(0, 255, 9).round().astype(np.uint8)
        probe = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
        if mode == "L":
            probe = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, axis=2)
        off = np.abs(_apply(transform, probe).astype(int) - probe).max()
    except Exception:  # as in read_metadata
        return None
    return transform if off > _SAME_LEVELS else None
