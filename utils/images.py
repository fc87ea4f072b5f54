"""Images on disk: reading, resizing and writing them."""

from __future__ import annotations

import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from utils.decoding import ImageError, TooManyPixels, decode, swap_red_and_blue
from utils.files import IMAGE_EXTENSIONS, JPEG_EXTENSIONS, open_atomically, plain_name, write_bytes

MAX_PIXELS = 2**28  # of an image: three bytes a pixel are 0.8 GB
MAX_BYTES = 2**31  # of a file: as many of 16-bit RGBA
MAX_ASPECT = 8.0  # longer side over shorter side; beyond it a resized image would be absurdly long
# What the extensions stand for, and harmless kinds that are often called so; Pillow would run Ghostscript for others.
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "PPM")
Image.MAX_IMAGE_PIXELS = None  # Pillow warns at a third of MAX_PIXELS already; read_picture has the limit
_ROWS = 16  # looked at together
QUALITY = 95  # of JPEG and WebP
_QUALITIES = dict.fromkeys(JPEG_EXTENSIONS, cv2.IMWRITE_JPEG_QUALITY) | {".webp": cv2.IMWRITE_WEBP_QUALITY}
# Photographs hold few repetitions: without a search for them PNGs are written fastest, and hardly larger.
_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY]
_PNG += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_AVG]
_PNG_END = b"IEND\xae\x42\x60\x82"  # and its checksum
LARGE = 2**24  # pixels of 16 bits, from which on `write_large` is worth it
HOLD_16_BIT = frozenset({".png", ".tif", ".tiff"})
HOLD_NO_ALPHA = JPEG_EXTENSIONS | {".bmp"}


@dataclass(frozen=True)
class Picture:
    """A decoded image, upright.

    Attributes:
        rgb: (H, W, 3), uint8 or uint16; a gray file has three equal channels.
        alpha: (H, W), of the same type, or None.
    """

    rgb: np.ndarray
    alpha: np.ndarray | None

    @property
    def has_color(self) -> bool:
        """Whether any pixel has channels that differ."""
        rows = (self.rgb[top : top + _ROWS] for top in range(0, len(self.rgb), _ROWS))
        return any((strip != strip[:, :, :1]).any() for strip in rows)  # the first few tell it of a color photograph


def read_picture(path: Path, at_least: int | None = None, max_pixels: int = MAX_PIXELS) -> Picture:
    """Decode an image: 8 or 16 bit, gray, RGB, alpha, palette or CMYK, turned upright by its EXIF orientation.

    Pillow knows every kind of file but has no 16-bit color, and OpenCV is faster at JPEG but misreads palettes,
    CMYK and 8-bit TIFF: each decodes what it does best. The first frame of an animation counts. Floating-point
    pixels in [0, 1] become 16 bit. Color profiles are ignored: the pixels are taken as sRGB.

    Args:
        path: of the file.
        at_least: a JPEG may come at a half, a quarter or an eighth of its size, which its decoder gives in a fraction
            of the time, as long as both sides keep this many pixels.
        max_pixels: a larger image is refused by its header, before memory is taken for it.

    Raises:
        ImageError: it cannot be read, is cut short, too large, or not an image.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("not a file")
        if status.st_size > MAX_BYTES:
            raise ImageError(f"a file of more than {MAX_BYTES} bytes")
        stream = path.open("rb")
    except ImageError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise ImageError(getattr(error, "strerror", None) or "cannot be read") from error
    try:
        with stream, Image.open(stream, formats=IMAGE_FORMATS) as file:
            if file.width * file.height > max_pixels:
                raise TooManyPixels(f"{file.width}x{file.height}: more than {max_pixels} pixels")
            pixels = decode(file, path, at_least)
    except Image.UnidentifiedImageError as error:
        raise ImageError("not an image, or of a kind that is not supported") from error
    except ImageError:
        raise
    except Exception as error:  # decoders raise errors of every type on broken files
        raise ImageError(" ".join(str(error).split()) or type(error).__name__) from error
    if pixels.ndim == 2:
        return Picture(cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB), None)
    alpha = np.ascontiguousarray(pixels[:, :, 3]) if pixels.shape[2] == 4 else None
    return Picture(np.ascontiguousarray(pixels[:, :, :3]), alpha)


def pixel_count(path: Path) -> int:
    """Read from its header how many pixels an image has; 0 where the header is broken."""
    try:
        if not path.is_file():  # a pipe would be waited for
            return 0
        with Image.open(path, formats=IMAGE_FORMATS) as file:
            return file.width * file.height
    except Exception:  # as in read_picture, which will say what is wrong
        return 0


def read_rgb(path: Path, at_least: int | None = None) -> np.ndarray:
    """Decode an image to (H, W, 3) uint8 sRGB, upright; alpha is dropped. `at_least` is that of `read_picture`.

    Raises:
        ImageError: it cannot be read, is cut short, or is not an image.
    """
    rgb = read_picture(path, at_least).rgb
    return rgb if rgb.dtype == np.uint8 else np.round(rgb / 257.0).astype(np.uint8)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize (H, W) or (H, W, 3): antialiased to shrink, bicubic to enlarge.

    8-bit RGB shrinks by a triangle filter (Pillow's "bilinear", in torch four times as fast as OpenCV's area
    average), everything else by area averaging.
    """
    if image.shape[:2] == (height, width):
        return image
    shrink = height * width < image.shape[0] * image.shape[1]
    if shrink and image.dtype == np.uint8 and image.ndim == 3:
        planes = torch.from_numpy(image).permute(2, 0, 1)[None]  # (1, 3, H, W), channels last
        planes = F.interpolate(planes, (height, width), mode="bilinear", antialias=True)
        return planes[0].permute(1, 2, 0).contiguous().numpy()
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_CUBIC)
    return np.clip(resized, 0, 1) if image.dtype.kind == "f" else resized


def shorter_side_shape(height: int, width: int, size: int) -> tuple[int, int]:
    """Give the height and width at which the shorter side is `size`, the aspect ratio kept.

    Raises:
        ImageError: the image is more than MAX_ASPECT times as long as it is wide.
    """
    shorter, longer = min(height, width), max(height, width)
    if longer > MAX_ASPECT * shorter:
        raise ImageError(f"{width}x{height}: longer than {MAX_ASPECT:.0f} times its shorter side")
    return max(size, round(height * size / shorter)), max(size, round(width * size / shorter))


def center_crop(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Cut the central (height, width) part out of (H, W, ...)."""
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def encode_image(suffix: str, picture: Picture, quality: int = QUALITY, overwrite: bool = False) -> bytes:
    """Encode a picture as a file of this suffix, one of IMAGE_EXTENSIONS.

    JPEG and BMP drop the alpha. What only PNG and TIFF can hold, 16 bit, becomes 8 bit in the others.

    Args:
        suffix: of the file.
        picture: the pixels.
        quality: of JPEG and WebP, 1 to 100.
        overwrite: the picture is not needed any more, and its pixels may be lost: this saves a copy of them.

    Raises:
        ImageError: the format cannot hold so large a picture.
    """
    return _encode(suffix.lower(), *_arrange(suffix.lower(), picture, quality, overwrite))


def _arrange(suffix: str, picture: Picture, quality: int, overwrite: bool) -> tuple[np.ndarray, list[int]]:
    """Give what OpenCV's encoder takes: (H, W, 3) BGR or (H, W, 4) BGRA, and its settings; see `encode_image`."""
    rgb, alpha = picture.rgb, picture.alpha
    if rgb.dtype == np.uint16 and suffix not in HOLD_16_BIT:
        rgb = np.round(rgb / 257.0).astype(np.uint8)
        alpha = None if alpha is None else np.round(alpha / 257.0).astype(np.uint8)
    bgr = swap_red_and_blue(rgb) if overwrite else cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    if alpha is not None and suffix not in HOLD_NO_ALPHA:
        bgr = np.dstack([bgr, alpha])
    return bgr, [_QUALITIES[suffix], quality] if suffix in _QUALITIES else _PNG if suffix == ".png" else []


def _encode(suffix: str, bgr: np.ndarray, settings: list[int]) -> bytes:
    if suffix not in IMAGE_EXTENSIONS:
        raise ImageError(f"no {suffix} file can be written; give --format png")
    try:
        whole, encoded = cv2.imencode(".jpg" if suffix in JPEG_EXTENSIONS else suffix, bgr, settings)
    except cv2.error:
        whole = False
    if not whole:
        raise ImageError(f"{bgr.shape[1]}x{bgr.shape[0]}: more than a {suffix} file can hold")
    return encoded.tobytes()


def write_large(path: Path, picture: Picture, overwrite: bool = False) -> None:
    """Write what `encode_image` gives, whole or not at all; OpenCV writes the file, so that its bytes take no memory.

    Args:
        path: .png or .tif; its folder is made.
        picture: (H, W), uint8 or uint16.
        overwrite: the pixels may be lost, as in `encode_image`.

    Raises:
        ImageError: the format cannot hold so large a picture.
        UserError: the file does not find room.
    """
    suffix = path.suffix.lower()
    bgr, settings = _arrange(suffix, picture, QUALITY, overwrite)
    cv2.utils.logging.setLogLevel(0)
    with open_atomically(path) as file:
        with suppress(cv2.error, OSError), plain_name(Path(file.name), suffix) as name:
            if cv2.imwrite(name, bgr, settings) and (suffix != ".png" or _ends_png(name)):
                return
        file.truncate(0)
        file.write(_encode(suffix, bgr, settings))  # or says what is wrong


def _ends_png(name: str) -> bool:
    """Whether a PNG has its last chunk: OpenCV does not see that the last bytes found no room."""
    with open(name, "rb") as file:
        file.seek(-len(_PNG_END), 2)
        return file.read() == _PNG_END


def write_image(path: Path, picture: Picture) -> None:
    """Write a picture in the format of the path's suffix, whole or not at all; see `encode_image`."""
    write_bytes(path, encode_image(path.suffix, picture))


def write_png(path: Path, rgb: np.ndarray, alpha: np.ndarray | None = None) -> None:
    """Write a PNG, whole or not at all.

    Args:
        path: where to; its folder is made.
        rgb: (H, W, 3), uint8 or uint16.
        alpha: (H, W), of the same type, or None.
    """
    write_bytes(path, encode_image(".png", Picture(rgb, alpha)))
