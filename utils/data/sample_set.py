"""Build a small sample set in COCO's layout from photographs that scikit-image ships; nothing is downloaded.

    python -m utils.data.sample_set --output-dir demo/data/coco

Reads astronaut, chelsea, coffee, rocket and the left view of stereo_motorcycle, and camera, which is gray: the
filter has to find it. Writes train2017/ (39 images), val2017/ (5), test2017/ (6), and annotations/ for the first
two. The crops of a photograph never overlap, so no training crop shares a pixel with a held-out one; they do
share the scene, so the set shows that the pipeline runs, not how well it colors.

Objects carry COCO's real category names and ids. Their outlines are drawn by hand and coarse. COCO has no
category for a rocket, so its crops have no objects: the filtered subset leaves them out, the full set has them.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import skimage.data

from utils.files import write_bytes, write_json, write_text
from utils.run import UserError, run_script, say

CATEGORIES = {"person": 1, "motorcycle": 4, "bench": 15, "cat": 17, "cup": 47, "spoon": 50}
MARKER = "SAMPLE_SET.txt"  # only a folder that holds it is replaced
JPEG_QUALITY = 95

Outline = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class SampleConfig:
    """Build the sample set."""

    output_dir: Path = Path("demo/data/coco")
    """Folder for train2017/, val2017/, test2017/ and annotations/; an earlier sample set there is replaced."""


@dataclass(frozen=True)
class Photo:
    """One photograph: how it is cut into crops, and what it shows.

    Attributes:
        name: function of `skimage.data`.
        columns: from left to right, the width in pixels of each column and the number of crops it is cut into.
        test: crops held out for testing, numbered from 0 down the columns.
        val: crops held out for validation.
        objects: COCO category name and outline as (x, y) points in the photograph.
    """

    name: str
    columns: tuple[tuple[int, int], ...]
    test: tuple[int, ...] = ()
    val: tuple[int, ...] = ()
    objects: dict[str, Outline] = field(default_factory=dict)

    def crops(self, height: int) -> Iterator[tuple[str, slice, slice]]:
        """Yield each crop's split, rows and columns."""
        number, left = 0, 0
        for width, count in self.columns:
            edges = [height * row // count for row in range(count + 1)]
            for top, bottom in pairwise(edges):
                split = "test2017" if number in self.test else "val2017" if number in self.val else "train2017"
                yield split, slice(top, bottom), slice(left, left + width)
                number += 1
            left += width


# fmt: off
PHOTOS = (
    Photo("astronaut", ((160, 4), (192, 2), (160, 4)), test=(4,), val=(3,), objects={
        "person": (
            (150, 50), (180, 18), (240, 15), (290, 45), (300, 110), (280, 150), (305, 185), (302, 235), (345, 260),
            (358, 345), (300, 370), (280, 420), (280, 512), (20, 512), (22, 420), (45, 350), (40, 250), (60, 210),
            (112, 200), (115, 170), (135, 150), (155, 120))}),
    Photo("chelsea", ((130, 2), (196, 1), (125, 2)), test=(2,), val=(0,), objects={
        "cat": (
            (55, 0), (345, 0), (372, 8), (362, 45), (365, 190), (330, 240), (300, 285), (265, 300), (0, 300), (0, 95),
            (35, 60), (40, 10))}),
    Photo("coffee", ((200, 3), (200, 2), (200, 3)), test=(3,), val=(1,), objects={
        "cup": (
            (172, 100), (190, 50), (240, 20), (300, 18), (360, 35), (400, 75), (405, 120), (390, 205), (330, 238),
            (255, 240), (235, 300), (205, 305), (195, 285), (205, 235), (185, 180)),
        "spoon": (
            (408, 68), (424, 75), (414, 105), (372, 200), (390, 220), (405, 260), (395, 305), (365, 325), (340, 318),
            (325, 290), (332, 250), (350, 225), (365, 180))}),
    Photo("rocket", ((220, 3), (200, 2), (220, 3)), test=(4,), val=(1,)),
    Photo("stereo_motorcycle", ((150, 4), (150, 4), (190, 2), (125, 4), (126, 4)), test=(8, 9), val=(12,), objects={
        "motorcycle": (
            (92, 205), (135, 175), (145, 150), (175, 152), (215, 190), (300, 200), (400, 165), (460, 160), (480, 145),
            (490, 85), (530, 80), (585, 125), (575, 150), (545, 190), (565, 255), (640, 290), (650, 320), (685, 370),
            (685, 420), (655, 448), (615, 445), (560, 420), (515, 380), (480, 400), (340, 400), (338, 437),
            (322, 437), (320, 395), (260, 380), (190, 400), (140, 375), (122, 320), (130, 260), (100, 225)),
        "bench": (
            (50, 115), (275, 108), (285, 190), (245, 190), (215, 165), (180, 140), (140, 145), (130, 165), (95, 205),
            (110, 240), (60, 300), (48, 300))}),
    Photo("camera", ((512, 1),), objects={
        "person": (
            (165, 100), (175, 70), (215, 62), (262, 78), (275, 115), (262, 145), (275, 160), (265, 200), (300, 215),
            (335, 165), (330, 215), (290, 245), (285, 300), (265, 310), (200, 295), (180, 340), (150, 380),
            (155, 512), (10, 512), (30, 440), (45, 330), (15, 300), (20, 260), (60, 175), (130, 135))}),
)
# fmt: on


def load_photo(name: str) -> np.ndarray:
    """Load a photograph of scikit-image's: (H, W, 3) or, for a gray one, (H, W), uint8."""
    loaded = getattr(skimage.data, name)()
    return loaded[0] if isinstance(loaded, tuple) else loaded  # the stereo pair comes with its disparity


def annotate(mask: np.ndarray) -> dict[str, object]:
    """Describe an object's (H, W) mask, uint8, as COCO does: box (x, y, width, height), area, not a crowd."""
    return {"bbox": list(cv2.boundingRect(mask)), "area": cv2.countNonZero(mask), "iscrowd": 0}


def write_crops(folder: Path) -> dict[str, int]:
    """Write every crop and the annotations below `folder`, and count the images of each split."""
    categories = [{"id": number, "name": name} for name, number in CATEGORIES.items()]
    tables: dict[str, dict[str, list]] = {
        split: {"images": [], "annotations": []} for split in ("train2017", "val2017", "test2017")
    }
    for photo in PHOTOS:
        pixels = load_photo(photo.name)
        masks = {
            name: cv2.fillPoly(np.zeros(pixels.shape[:2], np.uint8), [np.array(outline, np.int32)], 1)
            for name, outline in photo.objects.items()
        }
        for split, rows, columns in photo.crops(pixels.shape[0]):
            crop = np.ascontiguousarray(pixels[rows, columns])
            image_id = 1 + sum(len(table["images"]) for table in tables.values())
            file_name = f"{image_id:012d}.jpg"
            bgr = crop if crop.ndim == 2 else cv2.cvtColor(crop, cv2.COLOR_RGB2BGR)
            jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
            write_bytes(folder / split / file_name, jpeg.tobytes())
            size = {"height": crop.shape[0], "width": crop.shape[1]}
            tables[split]["images"].append({"id": image_id, "file_name": file_name, **size})
            for name, mask in masks.items():
                if mask[rows, columns].any():
                    names = {"id": 100 * image_id + CATEGORIES[name], "category_id": CATEGORIES[name]}
                    entry = {**names, "image_id": image_id, **annotate(mask[rows, columns])}
                    tables[split]["annotations"].append(entry)
    for split in ("train2017", "val2017"):
        write_json(folder / "annotations" / f"instances_{split}.json", tables[split] | {"categories": categories})
    return {split: len(table["images"]) for split, table in tables.items()}


def build_sample_set(output_dir: Path) -> dict[str, int]:
    """Build the sample set, the same bytes every time, and give the number of images of each split.

    Raises:
        UserError: `output_dir` is a file, or holds something that is not a sample set.
    """
    output_dir = output_dir.resolve()
    if output_dir.exists() and not output_dir.is_dir():
        raise UserError(f"--output-dir {output_dir}: is a file; choose another")
    if output_dir.is_dir() and any(output_dir.iterdir()) and not (output_dir / MARKER).is_file():
        raise UserError(f"--output-dir {output_dir}: is not empty and not a sample set; choose another")
    fresh = output_dir.with_name(output_dir.name + ".tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        counts = write_crops(fresh)
        write_text(fresh / MARKER, "Crops of photographs that scikit-image ships.\n")
        if output_dir.exists():
            shutil.rmtree(output_dir)
        fresh.rename(output_dir)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return counts


def build(cfg: SampleConfig) -> None:
    counts = build_sample_set(cfg.output_dir)
    say(f"sample set in {cfg.output_dir}: " + ", ".join(f"{count} in {split}" for split, count in counts.items()))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and give the exit code."""
    return run_script(SampleConfig, build, argv)


if __name__ == "__main__":
    sys.exit(main())
