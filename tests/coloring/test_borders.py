"""The uniform border of a scan."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import skimage.data
from coloring_subjects import ALPHA, PHOTO

from utils.coloring.borders import Border, cut_border, find_border, put_back
from utils.images import Picture

CAT = skimage.data.chelsea()  # (300, 451, 3)


def framed(border: Border, color: tuple[int, int, int]) -> np.ndarray:
    widths = border.top, border.bottom, border.left, border.right
    return cv2.copyMakeBorder(CAT, *widths, cv2.BORDER_CONSTANT, value=color)


@pytest.mark.parametrize("color", [(255, 255, 255), (8, 8, 8), (238, 226, 200)], ids=["white", "black", "paper"])
@pytest.mark.parametrize(
    "border", [Border(30, 41, 23, 36), Border(top=37), Border(bottom=20), Border(left=20, right=20)], ids=str
)
def test_find_border_finds_each_side(border: Border, color: tuple[int, int, int]) -> None:
    rgb = framed(border, color)
    assert find_border(rgb) == border
    assert find_border(rgb.astype(np.uint16) * 257) == border
    jpeg = cv2.imdecode(cv2.imencode(".jpg", rgb, [cv2.IMWRITE_JPEG_QUALITY, 75])[1], cv2.IMREAD_COLOR)
    found = find_border(jpeg)
    for side in ("top", "bottom", "left", "right"):
        assert abs(getattr(found, side) - getattr(border, side)) <= (2 if getattr(border, side) else 0)


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee", "rocket"])
def test_find_border_leaves_photographs_alone(name: str) -> None:
    assert not find_border(getattr(skimage.data, name)())


def test_find_border_takes_no_plain_background_for_one() -> None:
    rows = np.arange(200)[:, None, None]
    sky = np.broadcast_to(230 - rows // 3, (200, 300, 3)).astype(np.uint8)  # no step
    white = np.full((200, 300, 3), 255, np.uint8)  # no edge
    ball = cv2.circle(white.copy(), (150, 100), 80, (30, 90, 60), -1)  # no straight edge
    thin = framed(Border(2, 2, 2, 2), (255, 255, 255))
    blue = framed(Border(top=40), (120, 160, 220))
    for rgb in (sky, white, ball, thin, blue, white[:1], white[:, :1], white[:1, :1]):
        assert not find_border(rgb)


def test_cut_border_and_put_back_leave_the_border_as_it_was() -> None:
    border, picture = Border(3, 4, 5, 6), Picture(PHOTO, ALPHA)
    inside = cut_border(picture, border)
    assert inside.rgb.shape == (93, 140, 3) and inside.alpha is not None and inside.alpha.shape == (93, 140)
    back = put_back(picture, border, Picture(255 - inside.rgb, inside.alpha))
    expected = PHOTO.copy()
    expected[3:-4, 5:-6] = 255 - expected[3:-4, 5:-6]
    np.testing.assert_array_equal(back.rgb, expected)
    assert back.alpha is ALPHA
