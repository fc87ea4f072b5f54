"""Where colored images go."""

from __future__ import annotations

from pathlib import Path

import pytest

from utils.coloring.outputs import name_outputs


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
