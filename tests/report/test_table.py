from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from config import MetricsConfig
from utils.report.rows import Row, make_table
from utils.report.table import NAMED_PROBLEMS, format_table, per_image_lines, to_json, write_report

IMAGE = np.full((16, 16, 3), 128, np.uint8)
FILES = {"evaluation_metrics.csv", "evaluation_metrics.json", "per_image.csv", "report.md", "report.html"}
IMAGES = [Path(f"{letter}.png") for letter in "abcd"]


def make_row(name: str, psnr: list[float], shown: bool = False) -> Row:
    """A row of four images, of which one is missing, too small for MS-SSIM."""
    row = Row(name, {"results": name.lower()}, shown={Path("a.png"): IMAGE} if shown else {})
    row.scores = {
        "PSNR": torch.tensor([*psnr, *[math.nan] * (4 - len(psnr))]),
        "SSIM": torch.tensor([0.5, math.nan, 0.75, 1.0]),
        "MS-SSIM": torch.full((4,), math.nan),
        "Colorfulness": torch.tensor([10.0, math.nan, 20.0, 30.0]),
        "Delta colorfulness": torch.tensor([0.0, math.nan, 0.0, 0.0]),
    }
    return row


def make_rows(shown: bool) -> list[Row]:
    names = {"Model": [20.0, 30.0], "Grayscale": [25.0, math.inf], "Ground Truth": [math.inf, math.inf]}
    return [make_row(name, psnr, shown) for name, psnr in names.items()]


def test_make_table_averages_images_and_leaves_out_what_no_row_has() -> None:
    table = make_table(make_rows(shown=False), None)
    rest = {"SSIM": 0.75, "Colorfulness": 20, "Delta colorfulness": 0, "Images": 3}
    assert table == {
        "Model": {"PSNR": 25, **rest},
        "Grayscale": {"PSNR": 25, **rest},
        "Ground Truth": {"PSNR": math.inf, **rest},
    }


def test_make_table_keeps_a_column_that_one_row_has() -> None:
    table = make_table([make_row("Model", []), make_row("Ground Truth", [math.inf])], None)
    assert math.isnan(table["Model"]["PSNR"]) and table["Ground Truth"]["PSNR"] == math.inf


def test_format_table_aligns_columns() -> None:
    table = {
        "Subset": {"PSNR": 21.037, "SSIM": 0.87654, "FID": 9.876, "Images": 12},
        "Ground Truth": {"PSNR": math.inf, "SSIM": 1.0, "FID": 0.0, "Images": 9},
    }
    assert format_table(table).splitlines() == [
        "| Model        |  PSNR |   SSIM |  FID | Images |",
        "| ------------ | ----: | -----: | ---: | -----: |",
        "| Subset       | 21.04 | 0.8765 | 9.88 |     12 |",
        "| Ground Truth |   inf | 1.0000 | 0.00 |      9 |",
    ]


def test_to_json_has_plain_keys_and_no_bare_constants() -> None:
    line = {"PSNR": math.inf, "MS-SSIM": math.nan, "FD (random stand-in)": 0.5, "Images": 3}
    expected = {"psnr": "inf", "ms_ssim": None, "fd_random_stand_in": 0.5, "images": 3}
    assert to_json(line) == expected


def test_per_image_lines_list_what_was_scored_in_order() -> None:
    rows = make_rows(shown=False)
    lines = per_image_lines(list("abcd"), rows, ["PSNR", "SSIM"])
    assert [(line["Path"], line["Model"]) for line in lines] == [
        (key, name) for key in "acd" for name in ("Model", "Grayscale", "Ground Truth")
    ]
    assert lines[0] == {"Path": "a", "Model": "Model", "PSNR": "20", "SSIM": "0.5"}
    assert lines[2]["PSNR"] == "inf" and lines[3]["PSNR"] == "" and lines[3]["SSIM"] == "0.75"


@pytest.mark.parametrize("shown", [True, False])
def test_write_report_embeds_the_figure_only_where_it_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], shown: bool
) -> None:
    cfg = MetricsConfig(output_dir=tmp_path / "out", device="cpu", protocol="center-crop")
    write_report(cfg, IMAGES, make_rows(shown), None, IMAGES[:2], {"b.png": "cut short"})
    written = {path.name for path in cfg.output_dir.iterdir()}
    report, screen = (cfg.output_dir / "report.md").read_text(), capsys.readouterr().out
    assert written == FILES | ({"comparison.png"} if shown else set())
    assert ("![Comparison](comparison.png)" in report) == shown
    assert ("comparison.png" in report) == ("comparison.png" in screen) == shown
    assert "3 images, 1 of them gray" in report and "the central square of the image" in report
    assert "- Model: results model\n" in report and "- b.png: cut short\n" in report
    with open(cfg.output_dir / "evaluation_metrics.csv", newline="") as file:
        assert [line["Model"] for line in csv.DictReader(file)] == ["Model", "Grayscale", "Ground Truth"]


def test_write_report_names_all_problems_in_the_json_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg, rows = MetricsConfig(output_dir=tmp_path / "out", device="cpu"), make_rows(shown=False)
    skipped = {f"{index}.jpg": "cut short" for index in range(NAMED_PROBLEMS)}
    rows[0].missing = {"x.jpg": "no file of this name", "y.jpg": "no file of this name"}
    write_report(cfg, IMAGES, rows, None, [], skipped)
    content = json.loads((cfg.output_dir / "evaluation_metrics.json").read_text())
    assert content["skipped"] == skipped and content["rows"][0]["missing"] == rows[0].missing
    screen = capsys.readouterr().out
    assert f"{NAMED_PROBLEMS} images skipped, 2 missing:" in screen
    for text in (screen, (cfg.output_dir / "report.md").read_text()):
        assert f"{NAMED_PROBLEMS - 1}.jpg: cut short" in text and "x.jpg" not in text
        assert "... and 2 more, in evaluation_metrics.json" in text
