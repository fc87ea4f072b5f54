from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch

from utils.report.page import mean_interval, write_page
from utils.report.rows import DECIMALS, Row, make_table

COUNT = 12
EVIL = '"><script>alert(1)</script><img src=x onerror=alert(1)> & {{ 7 * 7 }}'
IMAGES = [Path(f"{index:02}.png") for index in range(COUNT)]


class Page(HTMLParser):
    """What a page holds: its elements with their attributes, and the text of its table cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def count(self, tag: str, **attributes: str) -> int:
        return sum(name == tag and attributes.items() <= found.items() for name, found in self.elements)


def make_row(name: str, psnr: float, source: dict[str, object], seed: int, missing: int | None = None) -> Row:
    draws = torch.rand(5, COUNT, generator=torch.Generator().manual_seed(seed))
    row = Row(name, source, scores={title: torch.full((COUNT,), math.nan) for title in DECIMALS})
    row.scores["PSNR"] = psnr + draws[0]
    row.scores["SSIM"] = 0.5 + psnr / 100 + draws[1] / 100
    row.scores["Colorfulness"] = psnr + draws[2]
    row.scores["Delta colorfulness"] = row.scores["Colorfulness"] - 40
    row.scores["LPIPS"] = draws[3] / 10 + psnr / 100
    row.shown = {image: np.full((32, 32, 3), 128, np.uint8) for image in IMAGES}
    if missing is not None:
        row.shown.pop(IMAGES[missing])
        for scores in row.scores.values():
            scores[missing] = math.nan
    return row


def make_rows(models: dict[str, dict[str, object]]) -> list[Row]:
    """Models of which each is 2 dB better than the one before."""
    rows = [make_row(name, 22 + 2 * i, source, i) for i, (name, source) in enumerate(models.items())]
    rows += [make_row("Grayscale", 21, {}, 50), make_row("Ground Truth", 40, {}, 51)]
    rows[-1].scores["PSNR"] = torch.full((COUNT,), math.inf)
    return rows


def write(folder: Path, rows: list[Row], keys: list[str] | None = None, sections: dict | None = None) -> str:
    sections = {"Protocol": ["12 images"], **(sections or {})}
    keys = keys or [str(image) for image in IMAGES]
    write_page(folder / "report.html", make_table(rows, None), IMAGES, keys, rows, IMAGES[:2], sections)
    return (folder / "report.html").read_text()


def test_mean_interval_of_two_values_reaches_both() -> None:
    # Two draws of {0, 1} have the mean 0 in a quarter of the resamples and 1 in another: both more than 2.5 %.
    assert mean_interval(np.array([0.0, 1.0])) == (0, 1) and mean_interval(np.array([7.0, 7.0])) == (7, 7)


def test_mean_interval_agrees_with_the_normal_one() -> None:
    values = np.random.default_rng(1).gamma(2, 5, 2000)  # so many that their mean is nearly normal
    expected = scipy.stats.norm.interval(0.95, values.mean(), scipy.stats.sem(values))
    assert mean_interval(values) == pytest.approx(expected, abs=0.05 * (expected[1] - expected[0]))


def test_mean_interval_of_equally_many_values_uses_the_same_resamples() -> None:
    values = np.random.default_rng(2).normal(20, 4, 50)
    low, high = mean_interval(values)
    assert mean_interval(values + 5) == pytest.approx((low + 5, high + 5))


def test_mean_interval_leaves_out_what_is_not_finite() -> None:
    values = np.random.default_rng(3).normal(20, 4, 30)
    assert mean_interval(np.array([math.nan, *values, math.inf])) == mean_interval(values)
    assert all(map(math.isnan, mean_interval(np.array([1.0, math.nan])))), "one value has no interval"


def test_write_page_needs_nothing_else(tmp_path: Path) -> None:
    text = write(tmp_path, make_rows({"A": {}, "B": {}}))
    page = Page(text)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert not {tag for tag, _ in page.elements} & {"script", "link", "iframe", "object", "base", "form", "a"}
    for _, attributes in page.elements:
        assert not {"href", "srcset", "action", "onload", "onerror"} & attributes.keys()
        assert attributes.get("src", "data:image/jpeg;base64,").startswith("data:image/jpeg;base64,")
    assert set(re.findall(r"url\((.)", text)) == {"#"}, "clip paths, in the page itself"
    assert "@import" not in text and not re.search(r"https?://", text)
    assert page.count("meta", **{"http-equiv": "Content-Security-Policy"}) == 1


def test_write_page_has_unique_ids_and_charts_with_labels(tmp_path: Path) -> None:
    for model in "AB":
        (tmp_path / model).mkdir()
        (tmp_path / model / "log.jsonl").write_text('{"epoch": 1, "loss_d": 0.5}\n')
    rows = make_rows({model: {"checkpoint": str(tmp_path / model / "G.pt")} for model in "AB"})
    page = Page(text := write(tmp_path, rows))
    ids = [found["id"] for _, found in page.elements if "id" in found]
    assert len(ids) == len(set(ids)) > 0
    used = re.findall(r'url\(#(\w+)\)|xlink:href="#(\w+)"', text)
    assert {first or second for first, second in used} <= set(ids)
    labels = [found["aria-label"] for tag, found in page.elements if tag == "svg" and found["role"] == "img"]
    assert len(labels) == len(set(labels)) == page.count("svg") == 8, "three histograms of two scores, two runs"
    assert any(label.startswith("PSNR of B: histogram of 12 images") for label in labels)
    assert write(tmp_path, rows) == text, "it depends on nothing else"


def test_write_page_escapes_names(tmp_path: Path) -> None:
    rows = make_rows({f"Model {EVIL}": {}, "B": {}})
    text = write(tmp_path, rows, [EVIL + str(image) for image in IMAGES], {"Skipped or missing": [EVIL]})
    page = Page(text)
    assert not page.count("script") and not any("onerror" in found for _, found in page.elements)
    assert all(found["src"].startswith("data:") for tag, found in page.elements if tag == "img")
    assert EVIL + "00.png" in page.text and f"Model {EVIL}" in page.text
    assert f"<li>{EVIL}" not in text


def test_write_page_marks_the_best_model_of_each_column(tmp_path: Path) -> None:
    text = write(tmp_path, make_rows({"A": {}, "B": {}}))
    table = text[text.index("<table>") : text.index("</table>")]
    models, references = table.split('<tbody class="reference">')
    first, second = (line.split("<td")[1:] for line in models.split("<tr>")[2:])
    titles = re.findall(r'<th scope="col">([\w ]+)', table)[1:]
    assert titles == ["PSNR", "SSIM", "Colorfulness", "Delta colorfulness", "LPIPS", "Images"]
    best = {title: ("best" in a, "best" in b) for title, a, b in zip(titles, first, second, strict=True)}
    assert best["PSNR"] == best["SSIM"] == best["Colorfulness"] == best["Delta colorfulness"] == (False, True)
    assert best["LPIPS"] == (True, False) and best["Images"] == (False, False)
    assert "best" not in references and "Grayscale" in references and "∞" in references
    assert "best model" not in write(tmp_path, make_rows({"A": {}})).split("</table>")[0], "one model has no rival"


def test_write_page_gives_intervals_around_the_means(tmp_path: Path) -> None:
    rows = make_rows({"A": {}, "B": {}})
    text = write(tmp_path, rows)
    mean = rows[0].scores["PSNR"].mean().item()
    low, high = map(float, re.search(rf">{mean:.2f}<small>\[([\d.]+), ([\d.]+)\]", text).groups())
    assert mean - 0.5 < low < mean < high < mean + 0.5
    assert "95% confidence interval" in Page(text).text and "2,000 resamples" in Page(text).text
    gain = (rows[1].scores["PSNR"] - rows[0].scores["PSNR"]).mean()
    assert re.search(rf'class="apart">\+{gain:.2f}<small>\[', text), "B is clearly better than A"
    rows[1].scores["PSNR"] = rows[0].scores["PSNR"] + torch.tensor([1.0, -1.1] * (COUNT // 2))
    assert re.search(r"<td>\N{MINUS SIGN}0\.05<small>\[\N{MINUS SIGN}0\.\d+, 0\.\d+\]", write(tmp_path, rows))
    assert text.count("minus Grayscale") == 2 and text.count("minus A") == 1


def test_write_page_shows_best_median_and_worst(tmp_path: Path) -> None:
    rows = [make_row("A", 25, {}, 7, missing=5), *make_rows({})]
    rows[0].scores["PSNR"] = torch.tensor([float(value) for value in [20, 30, *range(21, 29), math.nan, 29]])
    rows[0].scores["PSNR"][5] = math.nan
    page = Page(text := write(tmp_path, rows))
    captions = re.findall(r"<b>(\w+)</b>: (\S+)</figcaption>", text)
    assert captions == [("Best", "01.png"), ("Median", "07.png"), ("Worst", "00.png")]
    assert page.count("figure", **{"class": "chosen"}) == 3
    assert page.count("img") == 5 * 3, "three panels by PSNR and two by name, of three rows"
    rows[0].shown.pop(IMAGES[0])
    assert Page(write(tmp_path, rows)).count("div", **{"class": "missing"}) == 2


@pytest.mark.parametrize("stage", ["subset", "finetune_vgg"])
def test_write_page_draws_the_logs_beside_the_checkpoints(tmp_path: Path, stage: str) -> None:
    folder = tmp_path / "run" / ("vgg" if stage == "finetune_vgg" else "")
    folder.mkdir(parents=True)
    records = [
        {"epoch": i, "loss_g_l1": 1 / i, "loss_d": 0.2, "val_psnr": 20 + i, "val_psnr_gray": 21} for i in (1, 2)
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records) + '{"epoch": 3, "lo')
    source = {"checkpoint": str(tmp_path / "run" / "G_epoch_002.pt"), "stage": stage}
    text = write(tmp_path, make_rows({"A": source, "B": source, "C": {"checkpoint": str(tmp_path / "G_other.pt")}}))
    training = text[text.index("<h2>Training") :]
    assert "<h3>A, B</h3>" in training and "C</h3>" not in training
    assert training.count("<svg") == 2 and "Training losses" in training and "Validation PSNR (dB)" in training
    assert "G: L1 of ab" in training and "G: VGG" not in training and "colorfulness" not in training.lower()
    (folder / "log.jsonl").unlink()
    assert "<h2>Training" not in write(tmp_path, make_rows({"A": source}))


def test_write_page_works_for_one_gray_image(tmp_path: Path) -> None:
    rows = make_rows({"A": {}})
    for row in rows:
        for title, scores in row.scores.items():
            scores[1:] = math.nan
            if title == "PSNR":
                scores[0] = math.nan
        row.shown = {}
    text = write(tmp_path, rows)
    assert "<h2>Best" not in text and "<h2>Chosen" not in text and "nan" not in Page(text).text
