"""EXIF that is carried over, and color profiles."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import pytest
from coloring_subjects import ALPHA, PHOTO, PHOTO16
from PIL import ExifTags, Image, ImageCms

from utils.coloring.metadata import Metadata, encode_with_exif, read_metadata, to_srgb
from utils.images import Picture, read_picture

DATE, CAMERA, LATITUDE = "1999:12:31 23:59:58", "Brownie No. 2", (48.0, 51.0, 30.0)


def camera_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Orientation] = CAMERA, 6
    exif[ExifTags.IFD.Exif] = {0x9003: DATE, 0x829A: 0.01, 0x927C: b"maker" * 30, 0xA002: 151}
    exif[ExifTags.IFD.GPSInfo] = {1: "N", 2: LATITUDE}
    return exif


def assert_carried(data: bytes) -> None:
    with Image.open(io.BytesIO(data)) as file:
        exif = file.getexif()
        assert exif[ExifTags.Base.Make] == CAMERA
        assert exif.get(ExifTags.Base.Orientation, 1) == 1
        inner = exif.get_ifd(ExifTags.IFD.Exif)
        assert inner[0x9003] == DATE and float(inner[0x829A]) == 0.01 and set(inner) == {0x9003, 0x829A}
        assert exif.get_ifd(ExifTags.IFD.GPSInfo) == {1: "N", 2: LATITUDE}


@pytest.mark.parametrize("source", [".jpg", ".png", ".webp", ".tif"])
def test_exif_goes_from_any_file_into_any_other(source: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{source}"
    Image.fromarray(PHOTO).save(path, exif=camera_exif().tobytes())
    exif = read_metadata(path).exif
    for suffix in (".jpg", ".JPEG", ".png", ".webp", ".tif"):
        data = encode_with_exif(suffix, Picture(PHOTO, ALPHA), 90, exif)
        assert_carried(data)
        (tmp_path / f"out{suffix}").write_bytes(data)
        picture = read_picture(tmp_path / f"out{suffix}")
        assert np.abs(picture.rgb[:, 60:].astype(int) - PHOTO[:, 60:]).mean() < 5
        if suffix in (".png", ".tif"):
            np.testing.assert_array_equal(picture.rgb, PHOTO)
    assert_carried(encode_with_exif(".png", Picture(PHOTO16, None), 90, exif))


def test_encode_with_exif_writes_the_picture_where_the_exif_does_not_fit() -> None:
    for suffix in (".jpg", ".bmp", ".tif"):
        picture = Picture(PHOTO16 if suffix == ".tif" else PHOTO, None)
        exif = b"Exif\0\0" + bytes(70_000) if suffix == ".jpg" else camera_exif().tobytes()
        data = encode_with_exif(suffix, picture, 90, exif)
        assert data == encode_with_exif(suffix, picture, 90, b"")


def test_read_metadata_survives_broken_files(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(PHOTO).save(buffer, "JPEG", exif=camera_exif(), icc_profile=profile)
    whole, draw = buffer.getvalue(), random.Random(0)
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(draw.choice([1, 5, 40])):
            data[draw.randrange(20, 450)] = draw.randrange(256)  # the EXIF is there
        (tmp_path / "a.jpg").write_bytes(data)
        metadata = read_metadata(tmp_path / "a.jpg")
        with Image.open(io.BytesIO(encode_with_exif(".jpg", Picture(PHOTO, None), 90, metadata.exif))) as file:
            file.load()
        to_srgb(Picture(PHOTO, None), metadata.profile)
    assert read_metadata(tmp_path / "none.jpg") == Metadata()


def test_to_srgb_converts_what_is_not_srgb() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = swap_red_and_blue(srgb)
    picture = Picture(PHOTO, ALPHA)
    for profile in (b"", srgb, b"broken", ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()):
        assert to_srgb(picture, profile) is picture
    converted = to_srgb(picture, swapped)
    assert converted is not None and converted.alpha is ALPHA
    assert np.abs(converted.rgb.astype(int) - PHOTO[:, :, ::-1]).max() <= 2
    assert to_srgb(Picture(PHOTO16, None), swapped) is None
    gray = Picture(PHOTO[:, :, :1].repeat(3, axis=2), None)
    converted = to_srgb(gray, swapped)
    assert converted is not None and not converted.has_color


def swap_red_and_blue(profile: bytes) -> bytes:
    """Exchange the primaries in the tag table of a profile."""
    return profile.replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ")
