"""A corpus of images as the world sends them: whole ones of every kind, and broken ones, from a fixed seed."""

from __future__ import annotations

import io
import random
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import skimage.data
import tifffile
from PIL import Image, ImageCms

PHOTO = np.ascontiguousarray(skimage.data.astronaut()[40:88, 150:214])  # (48, 64, 3)
FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "tif": "TIFF", "bmp": "BMP"}


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    """Encode an image in memory."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def whole_images() -> dict[str, bytes]:
    """Give images that every script has to take."""
    photo = Image.fromarray(PHOTO)
    alpha = photo.copy()
    alpha.putalpha(Image.fromarray(PHOTO[:, :, 0]))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    files = {f"plain.{suffix}": encode(photo, kind) for suffix, kind in FORMATS.items()}
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        files[f"exif{orientation}.jpg"] = encode(photo, "JPEG", exif=exif)
    sixteen = PHOTO.astype(np.uint16) * 257
    tiff = io.BytesIO()
    tifffile.imwrite(tiff, sixteen, photometric="rgb")
    floats = io.BytesIO()
    tifffile.imwrite(floats, (PHOTO[:, :, 0] / 255).astype(np.float32))
    return files | {
        "gray.png": encode(photo.convert("L"), "PNG"),
        "palette.png": encode(photo.quantize(16), "PNG"),
        "alpha.png": encode(alpha, "PNG"),
        "cmyk.jpg": encode(photo.convert("CMYK"), "JPEG"),
        "cmyk.tif": encode(photo.convert("CMYK"), "TIFF"),
        "progressive.jpg": encode(photo, "JPEG", progressive=True),
        "icc.jpg": encode(photo, "JPEG", icc_profile=profile),
        "animated.webp": encode(photo, "WEBP", save_all=True, append_images=[photo.rotate(90)], lossless=True),
        "sixteen.png": cv2.imencode(".png", sixteen)[1].tobytes(),
        "sixteen.tif": tiff.getvalue(),
        "float.tif": floats.getvalue(),
        "png called jpg.jpg": encode(photo, "PNG"),
        "with  spaces.jpg": encode(photo, "JPEG"),
        "-dash.jpg": encode(photo, "JPEG"),
        "новый 写真 é.jpg": encode(photo, "JPEG"),
        "line\nbreak.jpg": encode(photo, "JPEG"),
        "x" * 251 + ".jpg": encode(photo, "JPEG"),
        "pixel.png": encode(photo.resize((1, 1)), "PNG"),
        "column.png": encode(photo.resize((1, 7)), "PNG"),
    }


def hopeless_images() -> dict[str, bytes]:
    """Give files that every script has to refuse."""
    photo = Image.fromarray(PHOTO)
    bomb = bytearray(encode(photo, "PNG"))
    bomb[16:24] = struct.pack(">II", 50_000, 50_000)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bomb[12:29]))
    infinite = io.BytesIO()
    tifffile.imwrite(infinite, np.full((48, 64, 3), np.inf, np.float32), photometric="rgb")
    return {
        "empty.jpg": b"",
        "zeros.png": bytes(5000),
        "text.jpg": b"<html><body>404 Not Found</body></html>",
        "postscript.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n%%EndComments\nshowpage\n%%EOF\n",
        "signature.png": b"\x89PNG\r\n\x1a\n",
        "start.jpg": b"\xff\xd8\xff",
        "bomb.png": bytes(bomb),
        "infinite.tif": infinite.getvalue(),
        "video.webp": b"RIFF\x10\x00\x00\x00AVI LIST",
    }


def damaged_images(count: int, seed: int = 0) -> dict[str, bytes]:
    """Cut files short or flip some of their bits; some of these can still be read."""
    draw = random.Random(seed)
    originals = [(name, data) for name, data in whole_images().items() if name.isascii() and len(name) < 30]
    originals = [(name.replace("\n", " "), data) for name, data in originals]
    files = {}
    for number in range(count):
        name, data = draw.choice(originals)
        broken = bytearray(data)
        if draw.random() < 0.4:
            del broken[draw.randrange(len(broken)) :]
        else:
            first = draw.choice([0, 0, len(broken) // 2])  # the header is where decoders are hurt
            for _ in range(draw.choice([1, 3, 30])):
                broken[draw.randrange(first, len(broken))] ^= 1 << draw.randrange(8)
        files[f"damaged{number:04d} {name}"] = bytes(broken)
    return files


def write_corpus(folder: Path, files: dict[str, bytes]) -> None:
    """Write files to a new folder."""
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
