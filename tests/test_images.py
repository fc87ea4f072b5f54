from __future__ import annotations

import os
import struct
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
import tifffile
from PIL import Image

from utils.files import MAX_LIST, list_images
from utils.images import (
    MAX_ASPECT,
    ImageError,
    Picture,
    center_crop,
    encode_image,
    pixel_count,
    read_picture,
    read_rgb,
    resize,
    shorter_side_shape,
    write_large,
    write_png,
)
from utils.run import UserError, map_in_threads

RGB = np.ascontiguousarray(skimage.data.astronaut()[40:140, 150:320])  # (100, 170, 3), no symmetry
HEIGHT, WIDTH = RGB.shape[:2]
RGB16 = RGB.astype(np.uint16) * 257 - RGB % 5  # not 8 bits in disguise
GRAY = np.asarray(Image.fromarray(RGB).convert("L"))
GRAY16 = GRAY.astype(np.uint16) * 256 + 7
ALPHA = np.tile(np.linspace(1, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))
ALPHA16 = ALPHA.astype(np.uint16) * 257 - 3
BILEVEL = np.where(GRAY > 120, 255, 0).astype(np.uint8)
PALETTE = Image.fromarray(RGB).quantize(64)
PALETTE_RGB = np.asarray(PALETTE.convert("RGB"))
JPEG = 3.0  # largest mean difference that JPEG may make, in 8-bit levels

# How a picture is stored so that a viewer who obeys this EXIF orientation sees it upright (EXIF 2.3, tag 0x0112).
TURNS = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: np.swapaxes(x, 0, 1),
    6: lambda x: np.rot90(x, 1),
    7: lambda x: np.rot90(np.swapaxes(x, 0, 1), 2),
    8: lambda x: np.rot90(x, -1),
}


def gray_rgb(gray: np.ndarray) -> np.ndarray:
    return np.repeat(gray[:, :, None], 3, axis=2)


def pillow(pixels: np.ndarray, mode: str | None = None, **options: object) -> Callable[[Path], None]:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return lambda path: (image.convert(mode) if mode else image).save(path, **options)


def opencv(pixels: np.ndarray) -> Callable[[Path], None]:
    return lambda path: cv2.imwrite(str(path), pixels)


def tiff(pixels: np.ndarray, **options: object) -> Callable[[Path], None]:
    return lambda path: tifffile.imwrite(path, pixels, **options)


def png(pixels: np.ndarray, color_type: int, transparent: bytes = b"") -> Callable[[Path], None]:
    """Write a PNG of a kind that neither library writes: 16-bit gray with alpha, or with a transparent level."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8 * pixels.itemsize, color_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(row.dtype.newbyteorder(">")).tobytes() for row in pixels)
    chunks = chunk(b"IHDR", header) + (chunk(b"tRNS", transparent) if transparent else b"")
    whole = b"\x89PNG\r\n\x1a\n" + chunks + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return lambda path: path.write_bytes(whole)


def premultiplied() -> np.ndarray:
    return np.dstack([np.round(RGB * (ALPHA[:, :, None] / 255)).astype(np.uint8), ALPHA])


RGBA = np.dstack([RGB, ALPHA])
RGBA16 = np.dstack([RGB16, ALPHA16])
KEY = int(GRAY16[0, 0])
KEYED = np.where(GRAY16 == KEY, 0, 65535).astype(np.uint16)
OTHER = Image.fromarray(255 - RGB)

FILES: dict[str, tuple[Callable[[Path], None], np.ndarray, np.ndarray | None, float]] = {
    "gray.png": (pillow(GRAY), gray_rgb(GRAY), None, 0),
    "gray.tif": (pillow(GRAY), gray_rgb(GRAY), None, 0),
    "gray.jpg": (pillow(GRAY, quality=95), gray_rgb(GRAY), None, JPEG),
    "gray_min_is_white.tif": (tiff(255 - GRAY, photometric="miniswhite"), gray_rgb(GRAY), None, 0),
    "gray16.png": (opencv(GRAY16), gray_rgb(GRAY16), None, 0),
    "gray16.tif": (opencv(GRAY16), gray_rgb(GRAY16), None, 0),
    "gray16_big_endian.tiff": (tiff(GRAY16, byteorder=">"), gray_rgb(GRAY16), None, 0),
    "gray16_min_is_white.tif": (tiff(65535 - GRAY16, photometric="miniswhite"), gray_rgb(GRAY16), None, 0),
    "gray16_keyed.png": (png(GRAY16, 0, struct.pack(">H", KEY)), gray_rgb(GRAY16), KEYED, 0),
    "gray_alpha.png": (pillow(np.dstack([GRAY, ALPHA])), gray_rgb(GRAY), ALPHA, 0),
    "gray_alpha16.png": (png(np.dstack([GRAY16, ALPHA16]), 4), gray_rgb(GRAY16), ALPHA16, 0),
    "rgb.png": (pillow(RGB), RGB, None, 0),
    "rgb.bmp": (pillow(RGB), RGB, None, 0),
    "rgb.tif": (pillow(RGB, compression="tiff_lzw"), RGB, None, 0),
    "rgb.webp": (pillow(RGB, lossless=True), RGB, None, 0),
    "rgb.JPG": (pillow(RGB, quality=95), RGB, None, JPEG),
    "progressive.jpeg": (pillow(RGB, quality=95, progressive=True), RGB, None, JPEG),
    "rgb16.png": (opencv(RGB16[:, :, ::-1]), RGB16, None, 0),
    "rgb16.tif": (tiff(RGB16, photometric="rgb", compression="zlib", predictor=True), RGB16, None, 0),
    "rgba.png": (pillow(RGBA), RGB, ALPHA, 0),
    "rgba.tif": (pillow(RGBA), RGB, ALPHA, 0),
    "rgba.webp": (pillow(RGBA, lossless=True), RGB, ALPHA, 0),
    "rgba_premultiplied.tif": (tiff(premultiplied(), photometric="rgb", extrasamples=["assocalpha"]), RGB, ALPHA, 4),
    "rgba16.png": (opencv(RGBA16[:, :, [2, 1, 0, 3]]), RGB16, ALPHA16, 0),
    "rgba16.tif": (tiff(RGBA16, photometric="rgb", extrasamples=["unassalpha"]), RGB16, ALPHA16, 0),
    "palette.png": (lambda path: PALETTE.save(path), PALETTE_RGB, None, 0),
    "palette.tif": (lambda path: PALETTE.save(path), PALETTE_RGB, None, 0),
    "palette.bmp": (lambda path: PALETTE.save(path), PALETTE_RGB, None, 0),
    "palette_transparent.png": (
        lambda path: PALETTE.save(path, transparency=0),
        PALETTE_RGB,
        np.where(np.asarray(PALETTE) == 0, 0, 255).astype(np.uint8),
        0,
    ),
    "bilevel.png": (pillow(BILEVEL, "1"), gray_rgb(BILEVEL), None, 0),
    "bilevel_fax.tif": (pillow(BILEVEL, "1", compression="group4"), gray_rgb(BILEVEL), None, 0),
    "cmyk.jpg": (pillow(RGB, "CMYK", quality=95), RGB, None, JPEG),
    "cmyk.tif": (pillow(RGB, "CMYK"), RGB, None, 0.5),
    "float.tif": (tiff((GRAY16 / 65535).astype(np.float32)), gray_rgb(GRAY16), None, 0),
    "animated.png": (pillow(RGB, save_all=True, append_images=[OTHER]), RGB, None, 0),
    "animated.webp": (pillow(RGB, save_all=True, append_images=[OTHER], lossless=True), RGB, None, 0),
    "two_pages.tif": (pillow(RGB, save_all=True, append_images=[OTHER]), RGB, None, 0),
    "two_pictures.jpg": (
        pillow(RGB, format="MPO", save_all=True, append_images=[OTHER], quality=95),
        RGB,
        None,
        JPEG,
    ),
}


def assert_picture(picture: Picture, rgb: np.ndarray, alpha: np.ndarray | None, tolerance: float) -> None:
    assert picture.rgb.dtype == rgb.dtype and picture.rgb.shape == rgb.shape
    assert np.abs(picture.rgb.astype(float) - rgb).mean() <= tolerance
    assert (picture.alpha is None) == (alpha is None)
    if alpha is not None:
        assert picture.alpha.dtype == rgb.dtype
        np.testing.assert_array_equal(picture.alpha, alpha)


@pytest.mark.parametrize("name", FILES)
def test_read_picture_decodes(name: str, tmp_path: Path) -> None:
    write, rgb, alpha, tolerance = FILES[name]
    write(tmp_path / name)
    assert_picture(read_picture(tmp_path / name), rgb, alpha, tolerance)
    assert pixel_count(tmp_path / name) == HEIGHT * WIDTH


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    "kind", ["jpg", "png", "tif", "webp", "cmyk.jpg", "cmyk.tif", "palette.png", "16.png", "16.tif"]
)
def test_read_picture_turns_once(kind: str, orientation: int, tmp_path: Path) -> None:
    path = tmp_path / f"turned.{kind}"
    stored = np.ascontiguousarray(TURNS[orientation](RGB16 if "16" in kind else RGB))
    exif = Image.Exif()
    exif[0x0112] = orientation
    if kind == "16.tif":
        tiff(stored, photometric="rgb", extratags=[(0x0112, "H", 1, orientation, True)])(path)
    elif kind == "16.png":
        opencv(stored[:, :, ::-1])(path)
        whole = path.read_bytes()
        data = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
        chunk = struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
        path.write_bytes(whole[:33] + chunk + whole[33:])  # after the signature and IHDR
    else:
        image = Image.fromarray(stored)
        image = image.convert("CMYK") if "cmyk" in kind else image.quantize(256) if "palette" in kind else image
        image.save(path, exif=exif, quality=95, lossless=True)
    tolerance = JPEG if "jpg" in kind else 8 if "palette" in kind else 1 if "cmyk" in kind else 0
    assert_picture(read_picture(path), RGB16 if "16" in kind else RGB, None, tolerance)


@pytest.mark.parametrize(
    "name",
    [
        "rgb.JPG",
        "progressive.jpeg",
        "cmyk.jpg",
        "rgb.png",
        "rgb16.png",
        "rgb.bmp",
        "rgb.tif",
        "rgb16.tif",
        "rgba.webp",
        "palette.png",
    ],
)
@pytest.mark.parametrize("share", [0.0, 0.02, 0.4, 0.95])
def test_read_picture_names_a_file_cut_short(
    name: str, share: float, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    FILES[name][0](path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ImageError) as error:
        read_picture(path)
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""


def test_read_picture_finds_a_cut_behind_a_whole_thumbnail(tmp_path: Path) -> None:
    thumbnail, path = tmp_path / "thumbnail.jpg", tmp_path / "photo.jpg"
    pillow(RGB[::4, ::4])(thumbnail)
    pillow(RGB, quality=95, exif=b"Exif\0\0" + thumbnail.read_bytes())(path)
    whole = path.read_bytes()
    assert whole.count(b"\xff\xd9") == 2
    read_picture(path)
    path.write_bytes(whole[: len(whole) * 3 // 4])
    with pytest.raises(ImageError, match="cut short"):
        read_picture(path)


def test_read_picture_ignores_what_follows_a_jpeg(tmp_path: Path) -> None:
    path = tmp_path / "motion.jpg"
    pillow(RGB, quality=95)(path)
    path.write_bytes(path.read_bytes() + b"a film, with the bytes \xff\xda in it")
    assert_picture(read_picture(path), RGB, None, JPEG)


def test_read_picture_survives_broken_exif(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pillow(RGB, quality=95, exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x0c\0\xff" * 9)(path)
        assert_picture(read_picture(path), RGB, None, JPEG)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "not an image"), (b"hello", "not an image"), (bytes(5000), "not an image"), (None, "No such file")],
)
def test_read_picture_names_what_is_no_image(content: bytes | None, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError, match=reason):
        read_picture(path)
    assert pixel_count(path) == 0


@pytest.mark.parametrize("pixels", [GRAY.astype(np.float32), GRAY / np.float32("nan"), GRAY.astype(np.int32)])
def test_read_picture_refuses_pixels_without_a_white_level(pixels: np.ndarray, tmp_path: Path) -> None:
    tiff(pixels)(tmp_path / "a.tif")
    with pytest.raises(ImageError):
        read_picture(tmp_path / "a.tif")


def test_read_picture_refuses_a_bomb_before_it_takes_memory(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "bomb.png")
    data = bytearray((tmp_path / "bomb.png").read_bytes())
    data[16:24] = struct.pack(">II", 60_000, 60_000)  # 10.8 GB, if its header is believed
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (tmp_path / "bomb.png").write_bytes(data)
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow has a limit of its own, which must not speak as well
        with pytest.raises(ImageError, match="60000x60000: more than 268435456 pixels"):
            read_picture(tmp_path / "bomb.png")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 50_000  # KB
    write_png(tmp_path / "a.png", RGB)
    with pytest.raises(ImageError, match="170x100: more than 16999 pixels"):
        read_picture(tmp_path / "a.png", max_pixels=HEIGHT * WIDTH - 1)
    assert read_picture(tmp_path / "a.png", max_pixels=HEIGHT * WIDTH).rgb.shape == (HEIGHT, WIDTH, 3)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_read_picture_refuses_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for ever
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    for name in ("pipe.png", "folder.png"):
        with pytest.raises(ImageError, match="not a file"):
            read_picture(tmp_path / name)
    with pytest.raises(ImageError):
        read_picture(tmp_path / "loop.png")


def test_read_rgb_gives_8_bits_without_alpha(tmp_path: Path) -> None:
    FILES["rgba16.png"][0](tmp_path / "a.png")
    rgb = read_rgb(tmp_path / "a.png")
    assert rgb.dtype == np.uint8
    np.testing.assert_array_equal(rgb, np.round(RGB16 / 257.0))


def test_has_color_is_false_for_equal_channels_alone() -> None:
    assert Picture(RGB, None).has_color
    assert not Picture(gray_rgb(GRAY16), None).has_color


def test_list_images_takes_any_letter_case_in_order(tmp_path: Path) -> None:
    names = ["B.JPEG", "a.Png", "c.tif", "d.TIFF", "e.bmp", "f.webp", "g.jpg"]
    for name in [*names, "notes.txt", "clip.gif", "._a.jpg"]:
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "folder.jpg" / "inner.png").touch()
    assert [path.name for path in list_images(tmp_path)] == names
    assert [str(path.relative_to(tmp_path)) for path in list_images(tmp_path, recursive=True)] == [
        *names[:5],
        "f.webp",
        os.path.join("folder.jpg", "inner.png"),
        "g.jpg",
    ]


def test_list_images_reads_a_list_relative_to_its_folder(tmp_path: Path) -> None:
    listing = tmp_path / "list.txt"
    listing.write_bytes(f"\ufeffsub/b.jpg\r\n\r\n  a.png \r\n{tmp_path / 'far' / 'c.jpg'}\r\n".encode())
    assert list_images(listing) == sorted(
        [tmp_path / "a.png", tmp_path / "sub" / "b.jpg", tmp_path / "far" / "c.jpg"]
    )


def test_list_images_says_that_an_image_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    with pytest.raises(UserError, match=r"a\.jpg: an image; give a folder"):
        list_images(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.mkdir(), "no images there"),
        (lambda path: path.write_text("\n"), "no images there"),
        (lambda path: path.write_text("a.jpg\nb\0.jpg"), "neither a folder, an image"),
        (lambda path: os.truncate(path.open("wb").name, MAX_LIST + 1), "neither a folder, an image"),
        (lambda path: path.write_bytes(b"\x93\xff\xfe"), "neither a folder, an image"),
        (lambda path: None, "no such image, folder or list"),
    ],
)
def test_list_images_names_an_empty_source(make: Callable[[Path], object], reason: str, tmp_path: Path) -> None:
    make(tmp_path / "source")
    with pytest.raises(UserError, match=f"source: {reason}"):
        list_images(tmp_path / "source")


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((480, 640), (256, 341)), ((640, 427), (384, 256)), ((10, 80), (256, 2048)), ((7, 7), (256, 256))],
)
def test_shorter_side_shape_keeps_the_aspect_ratio(shape: tuple[int, int], expected: tuple[int, int]) -> None:
    assert shorter_side_shape(*shape, 256) == expected


def test_shorter_side_shape_refuses_a_strip() -> None:
    with pytest.raises(ImageError, match="1x9"):
        shorter_side_shape(9, 1, 256)
    assert MAX_ASPECT == 8


def test_resize_averages_areas_and_keeps_the_type() -> None:
    blocks = np.kron(np.array([[0, 100], [200, 60]]), np.ones((4, 4)))
    for dtype in (np.uint8, np.uint16):
        np.testing.assert_array_equal(resize(blocks.astype(dtype), 2, 2), [[0, 100], [200, 60]])
    np.testing.assert_array_equal(resize(blocks.astype(np.uint8), 1, 1), [[90]])
    assert resize(RGB16, 150, 301).shape == (150, 301, 3)
    assert resize(RGB16, 150, 301).dtype == np.uint16
    assert resize(RGB, HEIGHT, WIDTH) is RGB
    steps = resize(np.kron(np.eye(4, dtype=np.float32), np.ones((2, 2), np.float32)), 33, 33)
    assert steps.min() == 0 and steps.max() == 1  # bicubic overshoots; clipped


@pytest.mark.parametrize("shape", [(50, 101), (7, 40), (1, 1), (99, 150)])
def test_resize_shrinks_8_bit_color_as_pillow_does(shape: tuple[int, int]) -> None:
    expected = np.asarray(Image.fromarray(RGB).resize(shape[::-1], Image.Resampling.BILINEAR))
    resized = resize(RGB, *shape)
    assert resized.dtype == np.uint8 and resized.flags.c_contiguous
    assert np.abs(resized.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_read_rgb_decodes_a_jpeg_at_reduced_size(orientation: int, tmp_path: Path) -> None:
    path, exif = tmp_path / "a.jpg", Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB[:96, :168]).save(path, quality=95, exif=exif)
    whole = read_rgb(path)
    shorter = min(whole.shape[:2])
    for at_least, factor in ((shorter, 1), (shorter // 2, 2), (shorter // 2 + 1, 1), (shorter // 9, 8)):
        reduced = read_rgb(path, at_least)
        assert reduced.shape[:2] == tuple(-(-side // factor) for side in whole.shape[:2])
        expected = cv2.resize(whole, reduced.shape[1::-1], interpolation=cv2.INTER_AREA)
        assert np.abs(reduced.astype(int) - expected).mean() < 3


def test_read_rgb_at_reduced_size_still_finds_a_jpeg_cut_short(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:-200])
    with pytest.raises(ImageError, match="cut short"):
        read_rgb(tmp_path / "a.jpg", 16)


def test_center_crop_cuts_the_middle() -> None:
    assert center_crop(np.arange(7)[:, None] * np.ones((1, 6)), 3, 2)[:, 0].tolist() == [2, 3, 4]
    assert center_crop(RGB, 10, 20).shape == (10, 20, 3)


@pytest.mark.parametrize(("rgb", "alpha"), [(RGB, None), (RGB, ALPHA), (RGB16, None), (RGB16, ALPHA16)])
def test_write_png_keeps_every_bit(rgb: np.ndarray, alpha: np.ndarray | None, tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.png"
    write_png(path, rgb, alpha)
    assert_picture(read_picture(path), rgb, alpha, 0)
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]


@pytest.mark.parametrize(("suffix", "width"), [(".png", 1_200_000), (".jpg", 70_000), (".webp", 20_000)])
def test_encode_image_refuses_what_the_format_cannot_hold(suffix: str, width: int) -> None:
    with pytest.raises(ImageError, match=f"{width}x1: more than a {suffix} file can hold"):
        encode_image(suffix, Picture(np.zeros((1, width, 3), np.uint8), None))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_encode_image_that_may_overwrite_gives_the_same_bytes(suffix: str) -> None:
    rgb = np.random.default_rng(0).integers(0, 65535, (40, 30, 3), np.uint16)
    assert encode_image(suffix, Picture(rgb.copy(), None), overwrite=True) == encode_image(suffix, Picture(rgb, None))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_write_large_and_read_picture_take_a_name_that_opencv_cannot(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"\N{CYRILLIC SMALL LETTER EF}{suffix}"
    if os.name == "posix":
        path = tmp_path / os.fsdecode(b"\xff" + os.fsencode(path.name))
    for alpha in (None, ALPHA16):
        write_large(path, Picture(RGB16, alpha))
        assert path.read_bytes() == encode_image(suffix, Picture(RGB16, alpha))
        assert_picture(read_picture(path), RGB16, alpha, 0)
    assert list(tmp_path.iterdir()) == [path]


def test_write_large_refuses_what_the_format_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"1200000x1: more than a \.png file can hold"):
        write_large(tmp_path / "a.png", Picture(np.zeros((1, 1_200_000, 3), np.uint16), None))
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_write_large_and_read_picture_need_little_memory(suffix: str, tmp_path: Path) -> None:
    def growth(function: Callable[[], object]) -> float:
        """Call a function; give by how much it raised the peak memory, in sizes of the picture's pixels."""
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
        before, _ = memory()
        kept = function()
        _, peak = memory()
        del kept
        return (peak - before) * 1024 / rgb.nbytes

    def memory() -> tuple[int, int]:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        now, peak = (int(lines[name].split()[0]) for name in ("VmRSS", "VmHWM"))
        return now, peak  # in KB

    path = tmp_path / f"a{suffix}"
    rgb = np.random.default_rng(0).integers(0, 65535, (2000, 2000, 3), np.uint16)  # its file is as large
    write_large(path, Picture(rgb[:9, :9], None))  # what is loaded once
    read_picture(path)
    assert growth(lambda: write_large(path, Picture(rgb, None), overwrite=True)) < 0.5
    assert growth(lambda: read_picture(path)) < (1.5 if suffix == ".png" else 2.7)  # libtiff maps the file


def test_map_in_threads_keeps_the_order_and_looks_ahead_a_little() -> None:
    started, lock = [], threading.Lock()

    def square(number: int) -> int:
        with lock:
            started.append(number)
        time.sleep(0.002 * (number % 3))
        return number**2

    results = map_in_threads(square, range(100), num_workers=2)
    assert next(results) == 0
    assert len(started) <= 9  # four a thread, and the one that replaced the first
    assert list(results) == [number**2 for number in range(1, 100)]


def test_map_in_threads_passes_an_error_on() -> None:
    with pytest.raises(ZeroDivisionError):
        list(map_in_threads(lambda number: 1 // number, [2, 1, 0, 3], num_workers=2))
