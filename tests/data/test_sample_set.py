from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.data import sample_set
from utils.data.sample_set import PHOTOS, annotate, build_sample_set, load_photo
from utils.files import list_images
from utils.images import read_picture
from utils.run import UserError


def read_tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_build_sample_set_writes_coco_layout(sample_coco: Path) -> None:
    counts = {split: len(list_images(sample_coco / split)) for split in ("train2017", "val2017", "test2017")}
    assert counts == {"train2017": 39, "val2017": 5, "test2017": 6}
    names = [path.name for path in sample_coco.rglob("*.jpg")]
    assert sorted(names) == [f"{number:012d}.jpg" for number in range(1, 51)]
    assert all(min(read_picture(path).rgb.shape[:2]) >= 180 for path in list_images(sample_coco / "test2017"))


def test_build_sample_set_includes_one_grayscale_file(sample_coco: Path) -> None:
    gray = [path for path in list_images(sample_coco / "train2017") if not read_picture(path).has_color]
    assert len(gray) == 1
    assert cv2.imread(str(gray[0]), cv2.IMREAD_UNCHANGED).ndim == 2


def test_build_sample_set_annotates_what_is_in_the_files(sample_coco: Path) -> None:
    for split in ("train2017", "val2017"):
        coco = json.loads((sample_coco / "annotations" / f"instances_{split}.json").read_text())
        shapes = {image["id"]: (image["height"], image["width"]) for image in coco["images"]}
        for image in coco["images"]:
            assert read_picture(sample_coco / split / image["file_name"]).rgb.shape[:2] == shapes[image["id"]]
        assert len({entry["id"] for entry in coco["annotations"]}) == len(coco["annotations"]) > 0
        for entry in coco["annotations"]:
            height, width = shapes[entry["image_id"]]
            x, y, box_width, box_height = entry["bbox"]
            assert x >= 0 and y >= 0 and x + box_width <= width and y + box_height <= height
            assert 0 < entry["area"] <= box_width * box_height
            assert entry["category_id"] in {category["id"] for category in coco["categories"]}


def test_build_sample_set_is_deterministic_and_leaves_nothing_stale(sample_coco: Path, tmp_path: Path) -> None:
    build_sample_set(tmp_path / "coco")
    (tmp_path / "coco" / "train2017" / "stale.jpg").touch()
    build_sample_set(tmp_path / "coco")
    assert read_tree(tmp_path / "coco") == read_tree(sample_coco)
    assert [path.name for path in tmp_path.iterdir()] == ["coco"]


def test_build_sample_set_refuses_a_foreign_folder(tmp_path: Path) -> None:
    (tmp_path / "train2017").mkdir()
    with pytest.raises(UserError, match="not a sample set"):
        build_sample_set(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["train2017"]


@pytest.mark.parametrize("photo", PHOTOS, ids=lambda photo: photo.name)
def test_photo_crops_cover_the_photograph_without_overlap(photo: sample_set.Photo) -> None:
    pixels = load_photo(photo.name)
    covered = np.zeros(pixels.shape[:2], int)
    splits = []
    for split, rows, columns in photo.crops(pixels.shape[0]):
        covered[rows, columns] += 1
        splits.append(split)
    assert (covered == 1).all()
    assert (splits.count("test2017"), splits.count("val2017")) == (len(photo.test), len(photo.val))


def test_annotate_gives_box_and_area() -> None:
    mask = np.zeros((10, 20), np.uint8)
    mask[2:5, 4:11] = 1
    mask[2, 4] = 0
    assert annotate(mask) == {"bbox": [4, 2, 7, 3], "area": 20, "iscrowd": 0}


def test_main_reports_a_foreign_folder_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").touch()
    assert sample_set.main(["--output-dir", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
