"""Where colored images go."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from coloring_subjects import ALPHA, PHOTO, PHOTO16

from utils.coloring.outputs import fit_container, name_outputs
from utils.images import Picture


@pytest.mark.parametrize(
    ("images", "names"),
    [
        ("a.jpg b.tiff sub/a.jpg", "a.png b.png sub/a.png"),
        ("a.jpg a.png b.jpg", "a_jpg.png a_png.png b.png"),
        ("a.jpg a.png a_jpg.bmp", "a_jpg.png a_png.png a_jpg_bmp.png"),
        ("a.jpg a.png a_jpg.jpg", "a_jpg.png a_png.png a_jpg_jpg.png"),
        ("A.jpg a.png", "A_jpg.png a_png.png"),
        ("a.jpg a.JPG", "a_jpg.png a_JPG.png"),
        ("a.b.jpg a.c.jpg", "a.b.png a.c.png"),
    ],
)
def test_name_outputs_keeps_all_images_apart(images: str, names: str) -> None:
    paths = [Path(image) for image in images.split()]
    assert name_outputs(paths) == [Path(name) for name in names.split()]
    assert name_outputs(paths[::-1]) == [Path(name) for name in names.split()][::-1]


def test_name_outputs_of_another_suffix_or_of_none() -> None:
    paths = [Path("a.jpg"), Path("a.png"), Path("b.TIF")]
    assert name_outputs(paths, ".jpg") == [Path("a_jpg.jpg"), Path("a_png.jpg"), Path("b.jpg")]
    assert name_outputs(paths, None) == paths


def test_fit_container_says_what_a_file_cannot_hold() -> None:
    alpha16 = ALPHA.astype(np.uint16) * 257
    for suffix in (".png", ".TIFF"):
        assert fit_container(Picture(PHOTO16, alpha16), suffix) == (Picture(PHOTO16, alpha16), [])
    _, remarks = fit_container(Picture(PHOTO16, alpha16), ".webp")
    assert remarks == ["written in 8 bits, as WEBP holds no 16"]
    picture, remarks = fit_container(Picture(PHOTO, ALPHA), ".jpg")
    assert picture.alpha is None and remarks == ["laid on white, as JPG holds no transparency"]
    expected = 255 - ALPHA[:, :, None] / 255 * (255.0 - PHOTO)  # ALPHA rises from 0 at the left
    assert np.abs(picture.rgb - expected).max() <= 0.501
    assert fit_container(Picture(PHOTO, np.full_like(ALPHA, 255)), ".jpg")[1] == []
