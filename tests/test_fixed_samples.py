from __future__ import annotations

import random
import zlib
from pathlib import Path

from utils.fixed_samples import choose_fixed_images

IMAGES = [Path("photos") / f"{number:012d}.jpg" for number in range(200)]


def test_choose_fixed_images_takes_smallest_hashes() -> None:
    # crc32 of a.jpg, b.jpg, c.jpg and d.jpg, by zlib.
    hashes = {Path(name): zlib.crc32(name.encode()) for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg")}
    expected = [path for path, _ in sorted(hashes.items(), key=lambda item: item[1])]
    assert choose_fixed_images(list(hashes), 3) == expected[:3]


def test_choose_fixed_images_ignores_order_and_folder() -> None:
    shuffled = random.Random(0).sample(IMAGES, len(IMAGES))
    moved = [Path("elsewhere") / path.name for path in IMAGES]
    chosen = choose_fixed_images(IMAGES, 8)
    assert choose_fixed_images(shuffled, 8) == chosen
    assert [path.name for path in choose_fixed_images(moved, 8)] == [path.name for path in chosen]


def test_choose_fixed_images_replaces_only_what_is_missing() -> None:
    chosen = choose_fixed_images(IMAGES, 8)
    without_first = choose_fixed_images([path for path in IMAGES if path != chosen[0]], 8)
    assert without_first[:7] == chosen[1:]
    without_others = choose_fixed_images([path for path in IMAGES if path in chosen or random.random() < 0.5], 8)
    assert without_others == chosen


def test_choose_fixed_images_gives_all_when_there_are_few() -> None:
    assert sorted(choose_fixed_images(IMAGES[:3], 8)) == IMAGES[:3]
    assert choose_fixed_images([], 8) == []
