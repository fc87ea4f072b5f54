from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.color

import filter as filter_script
from config import FILTER_REPORT, FilterConfig
from filter import judge_objects, judge_pixels, main, measure_pixels, read_objects
from utils.images import write_png

RED, GRAY, WHITE = (200, 60, 60), (120, 120, 120), (255, 255, 250)


def write_plain(path: Path, color: tuple[int, int, int], height: int = 40, width: int = 50) -> None:
    write_png(path, np.full((height, width, 3), color, np.uint8))


def write_annotations(path: Path, objects: dict[str, Sequence[tuple[int, float, int]]]) -> None:
    """Annotate files of 40x50 pixels with (category, area, iscrowd) each; 1 is person, 2 is bicycle."""
    numbered = list(enumerate(objects.items(), start=1))
    coco = {
        "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "bicycle"}],
        "images": [{"id": i, "file_name": name, "width": 50, "height": 40} for i, (name, _) in numbered],
        "annotations": [
            {"image_id": i, "category_id": category, "area": area, "iscrowd": crowd}
            for i, (_, entries) in numbered
            for category, area, crowd in entries
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(coco))


def read_report(folder: Path) -> dict:
    return json.loads((folder / FILTER_REPORT).read_text())


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Data root with a red image and a good object in it, a gray one, a broken one, and one without annotation."""
    images = tmp_path / "coco" / "train2017"
    write_plain(images / "red.png", RED)
    write_plain(images / "gray.png", GRAY)
    write_plain(images / "new.png", RED)
    (images / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not much of a JPEG")
    listed = {name: [(1, 500.0, 0)] for name in ("red.png", "gray.png", "broken.jpg")}
    write_annotations(tmp_path / "coco" / "annotations" / "instances_train2017.json", listed)
    return tmp_path / "coco"


def run(root: Path, output: Path, *flags: str) -> int:
    return main(["--data-root", str(root), "--output-dir", str(output), "--num-workers", "2", *flags])


@pytest.mark.parametrize(
    ("shares", "reasons"),
    [
        ([0.5], []),
        (None, ["no_annotation"]),
        ([], ["too_few_objects"]),
        ([0.5] + [0.001] * 30, ["too_many_objects"]),
        ([0.019, 0.001], ["object_too_small"]),
        ([0.96, 0.5], ["object_too_large"]),
        ([0.001] * 31, ["too_many_objects", "object_too_small"]),
    ],
)
def test_judge_objects_gives_each_reason(shares: list[float] | None, reasons: list[str]) -> None:
    assert judge_objects(shares, FilterConfig()) == reasons


def test_judge_objects_without_minimum_accepts_an_image_without_objects() -> None:
    assert judge_objects([], FilterConfig(min_objects=0)) == []


@pytest.mark.parametrize(
    ("means", "reasons"),
    [
        ((0.5, 50.0, 20.0), []),
        ((0.09, 50.0, 20.0), ["saturation"]),
        ((0.5, 14.0, 20.0), ["too_dark"]),
        ((0.5, 91.0, 20.0), ["too_bright"]),
        ((0.5, 50.0, 1.9), ["gray"]),
        ((0.0, 95.0, 0.0), ["saturation", "too_bright", "gray"]),
    ],
)
def test_judge_pixels_gives_each_reason(means: tuple[float, float, float], reasons: list[str]) -> None:
    assert judge_pixels(*means, FilterConfig()) == reasons


@pytest.mark.parametrize("size", [(40, 50), (600, 400)])
def test_measure_pixels_agrees_with_scikit_image(tmp_path: Path, size: tuple[int, int]) -> None:
    write_plain(tmp_path / "red.png", RED, *size)
    saturation, lightness, chroma = measure_pixels(tmp_path / "red.png")
    l, a, b = skimage.color.rgb2lab(np.uint8([[RED]]))[0, 0]
    assert saturation == pytest.approx((200 - 60) / 200, abs=1 / 255)
    assert lightness == pytest.approx(l, abs=0.5)
    assert chroma == pytest.approx(np.hypot(a, b), abs=1.0)


def test_measure_pixels_of_gray_is_exactly_zero(tmp_path: Path) -> None:
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2).repeat(40, axis=0)
    write_png(tmp_path / "ramp.png", ramp)
    saturation, _, chroma = measure_pixels(tmp_path / "ramp.png")
    assert (saturation, chroma) == (0, 0)


def test_read_objects_counts_allowed_categories_and_no_crowds(tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    write_annotations(path, {"a.jpg": [(1, 500, 0), (2, 100, 0), (1, 2000, 1)], "b.jpg": []})
    assert read_objects(path, ()) == {"a.jpg": [0.25, 0.05], "b.jpg": []}
    assert read_objects(path, ("bicycle",)) == {"a.jpg": [0.05], "b.jpg": []}


def test_main_writes_hard_links_and_report(root: Path, tmp_path: Path) -> None:
    output = tmp_path / "subset"
    assert run(root, output) == 0
    assert names_in(output) == [FILTER_REPORT, "red.png"]
    assert os.stat(output / "red.png").st_ino == os.stat(root / "train2017" / "red.png").st_ino
    report = read_report(output)
    assert (report["seen"], report["kept"]) == (4, 1)
    assert report["reasons"] == {"unreadable": 1, "saturation": 1, "gray": 1, "no_annotation": 1}
    assert report["rejected"] == {
        "broken.jpg": ["unreadable"],
        "gray.png": ["saturation", "gray"],
        "new.png": ["no_annotation"],
    }
    assert list(report["details"]) == ["broken.jpg"]
    assert report["details"]["broken.jpg"].startswith("unreadable: ")
    assert report["config"]["min_chroma"] == FilterConfig().min_chroma
    assert names_in(tmp_path) == ["coco", "subset"]


def test_main_copies_where_linking_fails(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(filter_script.os, "link", refuse)
    assert run(root, tmp_path / "subset") == 0
    source, copy = root / "train2017" / "red.png", tmp_path / "subset" / "red.png"
    assert copy.read_bytes() == source.read_bytes()
    assert copy.stat().st_ino != source.stat().st_ino


def test_main_gives_the_same_folder_again_and_nothing_stale(root: Path, tmp_path: Path) -> None:
    output = tmp_path / "subset"
    run(root, output)
    first = {path.name: path.read_bytes() for path in output.iterdir()}
    assert run(root, output) == 0
    assert {path.name: path.read_bytes() for path in output.iterdir()} == first
    assert run(root, output, "--no-use-annotations", "--min-chroma", "0", "--min-saturation", "0") == 0
    assert names_in(output) == [FILTER_REPORT, "gray.png", "new.png", "red.png"]
    assert run(root, output) == 0
    assert {path.name: path.read_bytes() for path in output.iterdir()} == first
    assert names_in(tmp_path) == ["coco", "subset"]


def test_main_judges_pixels_of_images_that_objects_reject(root: Path, tmp_path: Path) -> None:
    write_plain(root / "train2017" / "new.png", GRAY)
    assert run(root, tmp_path / "subset") == 0
    assert read_report(tmp_path / "subset")["rejected"]["new.png"] == ["no_annotation", "saturation", "gray"]


def test_main_without_annotations_filters_any_folder(tmp_path: Path) -> None:
    for name, color in (("red.PNG", RED), ("gray.png", GRAY), ("black.png", (9, 3, 3)), ("white.png", WHITE)):
        write_plain(tmp_path / "photos" / name, color)
    output = tmp_path / "subset"
    assert main(["--no-use-annotations", "--images-dir", str(tmp_path / "photos"), "--output-dir", str(output)]) == 0
    assert names_in(output) == [FILTER_REPORT, "red.PNG"]
    rejected = read_report(output)["rejected"]
    assert "too_dark" in rejected["black.png"] and "too_bright" in rejected["white.png"]


def test_main_finds_the_gray_photograph_of_the_sample_set(sample_coco: Path, tmp_path: Path) -> None:
    assert run(sample_coco, tmp_path / "subset") == 0
    report = read_report(tmp_path / "subset")
    assert report["rejected"]["000000000050.jpg"] == ["saturation", "gray"]
    assert 15 <= report["kept"] == len(names_in(tmp_path / "subset")) - 1


def test_main_ignores_file_names_that_lead_elsewhere(root: Path, tmp_path: Path) -> None:
    write_plain(tmp_path / "secret.png", RED)
    good = [(1, 500.0, 0)]
    listed = {"red.png": good, "../../secret.png": good, str(tmp_path / "secret.png"): good, "absent.png": good}
    write_annotations(root / "annotations" / "instances_train2017.json", listed)
    assert run(root, tmp_path / "subset") == 0
    assert names_in(tmp_path / "subset") == [FILTER_REPORT, "red.png"]
    assert read_report(tmp_path / "subset")["seen"] == 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--categories", "persn"), "near: person"),
        (("--min-chroma", "150"), "none of 4 images passes"),
        (("--annotations", "missing.json"), "python -m utils.data.coco"),
        (("--images-dir", "missing"), "missing"),
        (("--no-use-annotations", "--categories", "person", "--min-objects", "2"), "--categories, --min-objects: "),
    ],
)
def test_main_says_what_is_wrong_in_one_line(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], message: str
) -> None:
    assert run(root, tmp_path / "subset", *flags) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert names_in(tmp_path) == ["coco"]


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", '{"categories": [], "images": [7], "annotations": []}', '{"a":' + "[" * 100_000, '{"a": \xff}'],
    ids=["cut", "list", "empty", "number", "deep", "not UTF-8"],
)
def test_main_refuses_broken_annotations(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    path = root / "annotations" / "instances_train2017.json"
    path.write_bytes(text.encode("latin-1"))
    assert run(root, tmp_path / "subset") == 2
    error = capsys.readouterr().err
    assert str(path) in error and "python -m utils.data.coco" in error and error.count("\n") == 1
    assert names_in(tmp_path) == ["coco"]


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        *[(part, "id", None) for part in ("categories", "images")],
        *[("images", key, None) for key in ("file_name", "width", "height")],
        *[("annotations", key, None) for key in ("image_id", "category_id", "area")],
        *[("images", "width", value) for value in (0, -50, "50", [50], float("nan"), float("inf"), 10**400, {})],
        *[("annotations", "area", value) for value in (-1, "500", [], float("nan"), float("-inf"), 10**400)],
        ("images", "id", 2),
        ("images", "id", [1]),
        ("images", "file_name", "gray.png"),
        ("annotations", "category_id", 77),
        ("annotations", "image_id", {}),
    ],
)
def test_main_names_the_entry_that_makes_no_sense(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], part: str, key: str, value: object
) -> None:
    path = root / "annotations" / "instances_train2017.json"
    coco = json.loads(path.read_text())
    coco[part][0][key] = value
    if value is None:
        del coco[part][0][key]
    path.write_text(json.dumps(coco))
    assert run(root, tmp_path / "subset") == 2
    error = capsys.readouterr().err
    assert f"error: {path}: not COCO instance annotations (" in error and key in error and len(error) < 1000
    assert error.count("\n") == 1 and names_in(tmp_path) == ["coco"]


def test_main_counts_annotations_of_images_that_are_not_listed(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = root / "annotations" / "instances_train2017.json"
    coco = json.loads(path.read_text())
    coco["annotations"] += [
        {"image_id": 99, "category_id": 1, "area": 5},
        {"image_id": "1", "bbox": [-1, -1, -1, -1]},
    ]
    path.write_text(json.dumps(coco))
    assert run(root, tmp_path / "subset") == 0
    assert f"{path}: 2 annotations of images that it does not list are ignored" in capsys.readouterr().out
    assert names_in(tmp_path / "subset") == [FILTER_REPORT, "red.png"]


def test_main_refuses_annotations_of_other_images(root: Path, tmp_path: Path) -> None:
    write_annotations(root / "annotations" / "instances_train2017.json", {"other.png": [(1, 500, 0)]})
    assert run(root, tmp_path / "subset") == 2


def test_main_refuses_a_foreign_output_folder(root: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    assert run(root, tmp_path / "mine") == 2
    assert names_in(tmp_path / "mine") == ["thesis.txt"]
    assert run(root, tmp_path / "mine" / "thesis.txt") == 2


def test_main_deletes_no_file_that_was_put_into_its_folder(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "subset"
    run(root, output)
    write_plain(output / "my own.png", RED)
    assert run(root, output) == 2
    assert f"{output / 'my own.png'}: filter.py did not write it" in capsys.readouterr().err
    assert names_in(output) == [FILTER_REPORT, "my own.png", "red.png"]


@pytest.mark.parametrize("place", ["train2017", "train2017/subset", "."])
def test_main_refuses_an_output_folder_that_overlaps_the_images(root: Path, place: str) -> None:
    shutil.copy(root / "annotations" / "instances_train2017.json", root / FILTER_REPORT)  # looks like ours
    before = names_in(root / "train2017")
    assert run(root, root / place) == 2
    assert names_in(root / "train2017") == before


def test_main_refuses_a_list_with_two_images_of_one_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("a", "b"):
        write_plain(tmp_path / "in" / folder / "same.png", RED)
    listing = tmp_path / "in" / "list.txt"
    listing.write_text("a/same.png\nb/same.png\n")
    flags = ["--no-use-annotations", "--images-dir", str(listing), "--output-dir", str(tmp_path / "out")]
    assert main(flags) == 2
    assert "same.png" in capsys.readouterr().err


def test_main_reports_a_panorama_as_unreadable(tmp_path: Path) -> None:
    write_plain(tmp_path / "in" / "red.png", RED)
    write_plain(tmp_path / "in" / "long.png", RED, 10, 200)
    assert main(["--no-use-annotations", "--images-dir", f"{tmp_path}/in", "--output-dir", f"{tmp_path}/out"]) == 0
    assert read_report(tmp_path / "out")["rejected"] == {"long.png": ["unreadable"]}


def test_main_reads_grayscale_files_of_one_channel(tmp_path: Path) -> None:
    write_plain(tmp_path / "in" / "red.png", RED)
    cv2.imwrite(str(tmp_path / "in" / "gray.jpg"), np.full((40, 50), 128, np.uint8))
    assert main(["--no-use-annotations", "--images-dir", f"{tmp_path}/in", "--output-dir", f"{tmp_path}/out"]) == 0
    assert read_report(tmp_path / "out")["rejected"] == {"gray.jpg": ["saturation", "gray"]}
