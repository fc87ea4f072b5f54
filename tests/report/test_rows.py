from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from utils.files import list_images
from utils.images import read_rgb, write_png
from utils.report.rows import Row, extremes, match_files


def make_row(psnr: list[float]) -> Row:
    return Row("Model", {}, scores={"PSNR": torch.tensor(psnr)})


@pytest.mark.parametrize(
    ("psnr", "expected"),
    [
        ([20, 23, 21, 22, 24], {"best": 4, "median": 3, "worst": 0}),
        ([20, 23, 21, 22], {"best": 1, "median": 3, "worst": 0}),  # the better one of 21 and 22
        ([math.nan, 21, math.inf, math.nan, 20], {"best": 2, "median": 1, "worst": 4}),
        ([20, 21], {"best": 1, "worst": 0}),
        ([math.nan, 20], {"best": 1}),
        ([math.nan], {}),
    ],
)
def test_extremes_are_different_images_in_order(psnr: list[float], expected: dict[str, int]) -> None:
    chosen = extremes(make_row(psnr))
    assert chosen == expected and list(chosen) == list(expected)


def test_match_files_by_name_and_stem(tmp_path: Path) -> None:
    truth, done = tmp_path / "truth", tmp_path / "done"
    names = {
        truth: ("a.jpg", "a.png", "b.jpg", "c.jpg", "d.jpg"),
        done: ("a_jpg.png", "a.png", "b.webp", "c.jpg.png"),
    }
    for folder in (truth, done):
        folder.mkdir()
        for name in names[folder]:
            (folder / name).touch()
    files = match_files("Done", done, list_images(truth), 9, truth)
    expected = {"a.jpg": "a_jpg.png", "a.png": "a.png", "b.jpg": "b.webp", "c.jpg": "c.jpg.png"}
    assert {image.name: match.name for image, match in files.items()} == expected


def test_match_files_never_gives_one_image_to_two_truths(tmp_path: Path) -> None:
    for path in (tmp_path / "truth" / "a.jpg", tmp_path / "truth" / "a.png", tmp_path / "done" / "a.png"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    truth = tmp_path / "truth"
    files = match_files("Done", tmp_path / "done", list_images(truth), 9, truth)
    assert [image.name for image in files] == ["a.png"]


def test_match_files_finds_what_inference_makes_of_a_list_elsewhere(sample_coco: Path, tmp_path: Path) -> None:
    chosen = tmp_path / "lists" / "chosen.txt"
    chosen.parent.mkdir()
    images = list_images(sample_coco / "test2017")[:2]
    chosen.write_text("".join(f"{path}\n" for path in images))
    for path in images:
        write_png(tmp_path / "done" / f"{path.stem}.png", read_rgb(path))
    matches = match_files("Done", tmp_path / "done", list_images(chosen), 9, chosen)
    assert {image.name: match.name for image, match in matches.items()} == {
        path.name: f"{path.stem}.png" for path in images
    }


def test_match_files_names_the_first_images_as_inference_names_all(tmp_path: Path) -> None:
    images = [tmp_path / name for name in ("a/1.jpg", "a/2.jpg", "b/3.jpg")]
    chosen = tmp_path / "chosen.txt"
    chosen.write_text("".join(f"{path}\n" for path in images))
    write_png(tmp_path / "done" / "a" / "1.png", np.zeros((8, 8, 3), np.uint8))
    write_png(tmp_path / "done" / "b" / "3.png", np.zeros((8, 8, 3), np.uint8))
    assert match_files("Done", tmp_path / "done", images, 1, chosen) == {images[0]: tmp_path / "done" / "a" / "1.png"}
