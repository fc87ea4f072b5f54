"""Toned photographs and those that are not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import skimage.data

from utils.coloring.toning import is_toned

NAMES = ["astronaut", "chelsea", "coffee", "rocket"]
SEPIA = np.array([[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]])
DUOTONES = {"faded": ((58, 42, 30), (240, 226, 196)), "cyanotype": ((10, 25, 60), (230, 240, 245))}


def jpeg(rgb: np.ndarray) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", rgb, [cv2.IMWRITE_JPEG_QUALITY, 75])[1], cv2.IMREAD_COLOR)


@pytest.mark.parametrize("name", NAMES)
def test_is_toned_tells_toned_from_gray_and_from_color(name: str) -> None:
    rgb = getattr(skimage.data, name)()
    assert not is_toned(jpeg(rgb)) and not is_toned(rgb.astype(np.uint16) * 257)
    gray = cv2.cvtColor(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    assert not is_toned(gray) and not is_toned(jpeg(gray))
    sepia = np.clip(rgb @ SEPIA.T, 0, 255).round().astype(np.uint8)
    assert is_toned(jpeg(sepia)) and is_toned(sepia.astype(np.uint16) * 257)
    for dark, light in DUOTONES.values():
        toned = np.array(dark) + gray / 255 * (np.array(light) - np.array(dark))
        assert is_toned(jpeg(toned.round().astype(np.uint8)))


def test_is_toned_takes_any_size() -> None:
    for shape in ((1, 1), (1, 300), (300, 1)):
        assert is_toned(np.full((*shape, 3), (120, 100, 80), np.uint8)) == (max(shape) > 1)
