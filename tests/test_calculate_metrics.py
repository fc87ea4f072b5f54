from __future__ import annotations

import csv
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

import calculate_metrics
import config
from models_lab import GeneratorUNet
from utils.files import list_images
from utils.fixed_samples import choose_fixed_images
from utils.images import read_rgb, resize, write_png
from utils.training import checkpoints

ROOT = Path(__file__).parent.parent
WRITTEN = {"comparison.png", "evaluation_metrics.csv", "evaluation_metrics.json", "per_image.csv", "report.md"}
WRITTEN |= {"report.html"}
PD = "PD (random stand-in)"


def save_generator(path: Path, vgg: str | None = None) -> Path:
    """A random generator whose colors can be seen."""
    torch.manual_seed(0)
    generator = GeneratorUNet(width=4, depth=3)
    torch.nn.init.normal_(generator.head.conv.weight, 0, 2)
    info = {"stage": "subset", "epoch": 2, "step": 7, "config": {"img_size": 64}, "metrics": {}, "vgg": vgg}
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.save_network(path, generator, info)
    return path


@pytest.fixture(scope="module")
def photos(sample_coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four crops of photographs."""
    folder = tmp_path_factory.mktemp("photos")
    for path in list_images(sample_coco / "test2017")[:4]:
        shutil.copy(path, folder / path.name)
    return folder


def run(folder: Path, *arguments: object) -> tuple[int, Path]:
    output = folder / "evaluation"
    fixed = ("--output-dir", output, "--inception-weights", "none", "--lpips-weights", "none", "--device", "cpu")
    return calculate_metrics.main([str(argument) for argument in (*fixed, "--num-workers", 2, *arguments)]), output


def read_rows(output: Path) -> dict[str, dict]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    content = json.loads((output / "evaluation_metrics.json").read_text(), parse_constant=refuse)
    return {row["model"]: row for row in content["rows"]}


@pytest.mark.parametrize(
    ("name", "vgg", "row"),
    [
        ("Finetune+VGG", "stand-in", "Finetune+VGG (stand-in VGG)"),
        ("Finetune+VGG", "lite2", "Finetune+VGG (Lite2 for VGG)"),
        ("Mine", "lite2", "Mine"),
        ("Finetune+VGG", "imagenet", "Finetune+VGG"),
    ],
)
def test_open_rows_says_what_stood_in_for_vgg(tmp_path: Path, name: str, vgg: str, row: str) -> None:
    path = save_generator(tmp_path / "g.pt", vgg)
    rows = calculate_metrics.open_rows(config.MetricsConfig(checkpoint={name: path}), [], torch.device("cpu"))
    assert rows[0].name == row


def test_main_writes_the_report(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = (
        "Subset",
        save_generator(tmp_path / "a.pt"),
        "Finetune+VGG",
        save_generator(tmp_path / "b.pt", "stand-in"),
    )
    code, output = run(
        tmp_path, "--images-dir", photos, "--checkpoint", *names, "--results", "Copy", photos,
        "--inception-weights", "stand-in", "--lpips-weights", "stand-in", "--img-size", 176, "--batch-size", 3,
    )  # fmt: skip
    assert code == 0
    assert {path.name for path in output.iterdir()} == WRITTEN
    rows = read_rows(output)
    assert list(rows) == ["Subset", "Finetune+VGG (stand-in VGG)", "Copy", "Grayscale", "Ground Truth"]

    truth = rows["Ground Truth"]
    assert (truth["psnr"], truth["delta_colorfulness"], truth["images"]) == ("inf", 0, 4)
    assert truth["ssim"] == pytest.approx(1, abs=1e-5) and truth["ms_ssim"] == pytest.approx(1, abs=1e-5)
    assert truth["fd_random_stand_in"] == pytest.approx(0, abs=1e-4)
    same = {key: value for key, value in truth.items() if isinstance(value, float)}
    assert {key: rows["Copy"][key] for key in same} == pytest.approx(same, abs=1e-4)
    assert rows["Copy"]["psnr"] == "inf"
    assert rows["Grayscale"]["colorfulness"] < 0.5
    assert rows["Grayscale"]["delta_colorfulness"] == pytest.approx(
        rows["Grayscale"]["colorfulness"] - truth["colorfulness"], abs=1e-4
    )
    assert 5 < rows["Subset"]["psnr"] < 50 and rows["Subset"]["fd_random_stand_in"] > 0
    assert rows["Subset"]["source"]["epoch"] == 2

    with open(output / "evaluation_metrics.csv", newline="") as file:
        table = {line["Model"]: line for line in csv.DictReader(file)}
    assert list(table) == list(rows)
    assert float(table["Subset"]["PSNR"]) == rows["Subset"]["psnr"]
    assert math.isinf(float(table["Ground Truth"]["PSNR"]))

    report, screen = (output / "report.md").read_text(), capsys.readouterr().out
    for text in (report, screen):
        assert "| Ground Truth" in text and " inf |" in text and "| FD (random stand-in) |" in text
        assert "| FID" not in text and "(stand-in VGG)" in text
    assert "![Comparison](comparison.png)" in report and f"torch {torch.__version__.split('+')[0]}" in report
    assert "FID" not in (output / "evaluation_metrics.csv").read_text()
    assert (
        truth["pd_random_stand_in"] == 0 == rows["Copy"]["pd_random_stand_in"] < rows["Subset"]["pd_random_stand_in"]
    )
    with open(output / "per_image.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    names = [path.name for path in list_images(photos)]
    assert [(line["Path"], line["Model"]) for line in lines] == [(name, row) for name in names for row in rows]
    assert list(lines[0]) == ["Path", "Model", "PSNR", "SSIM", "MS-SSIM", "Colorfulness", "Delta colorfulness", PD]
    for title, key in {"PSNR": "psnr", "Colorfulness": "colorfulness", PD: "pd_random_stand_in"}.items():
        mean = np.mean([float(line[title]) for line in lines if line["Model"] == "Subset"])
        assert mean == pytest.approx(rows["Subset"][key], rel=1e-5), title

    page = (output / "report.html").read_text()
    assert page.count("<b>Best</b>") == 3 and f"torch {torch.__version__.split('+')[0]}" in page
    assert "LPIPS" not in page.split("<h2>Protocol")[0] + (output / "per_image.csv").read_text()
    figure = cv2.imread(str(output / "comparison.png"))
    assert figure.shape[1] / 5 == pytest.approx(figure.shape[0] / 4, rel=0.1), "five columns, four rows"


def test_main_scores_an_image_that_a_list_names_twice_once(photos: Path, tmp_path: Path) -> None:
    first, second = list_images(photos)[:2]
    chosen = tmp_path / "chosen.txt"
    twice = photos / ".." / photos.name / first.name
    chosen.write_text("".join(f"{path}\n" for path in (first, second, first, twice)))
    code, output = run(tmp_path, "--images-dir", chosen, "--results", "Copy", photos, "--img-size", 32)
    assert code == 0
    assert read_rows(output)["Copy"]["images"] == 2


def test_main_refuses_an_output_folder_that_is_a_file_before_it_scores(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "evaluation").touch()
    assert run(tmp_path, "--images-dir", photos, "--results", "Copy", photos)[0] == 2
    assert f"{tmp_path / 'evaluation'}: not a folder" in capsys.readouterr().err


@pytest.mark.parametrize("protocol", ["squash", "center-crop"])
def test_main_scores_the_same_pixels_as_skimage(photos: Path, tmp_path: Path, protocol: str) -> None:
    code, output = run(
        tmp_path, "--images-dir", photos, "--results", "Dark", darker(photos, tmp_path / "dark"),
        "--img-size", 64, "--protocol", protocol,
    )  # fmt: skip
    assert code == 0
    expected = []
    for path in list_images(photos):
        true, image = read_rgb(path), read_rgb(tmp_path / "dark" / path.with_suffix(".png").name)
        if protocol == "center-crop":
            side, (height, width) = min(true.shape[:2]), true.shape[:2]
            top, left = (height - side) // 2, (width - side) // 2
            true, image = (array[top : top + side, left : left + side] for array in (true, image))
        true, image = (np.asarray(Image.fromarray(array).resize((64, 64), Image.BILINEAR)) for array in (true, image))
        expected.append(peak_signal_noise_ratio(true, image))
    row = read_rows(output)["Dark"]
    assert row["psnr"] == pytest.approx(np.mean(expected), abs=1e-3)
    assert "ms_ssim" not in row and "MS-SSIM |" not in (output / "report.md").read_text()


def darker(photos: Path, folder: Path) -> Path:
    """Finished images under the same stems with another suffix."""
    for path in list_images(photos):
        write_png(folder / path.with_suffix(".png").name, read_rgb(path) // 2)
    return folder


def test_main_keeps_the_lightness_of_the_truth(photos: Path, tmp_path: Path) -> None:
    # A gray truth has ab = 0: the grayscale row gives it back, and PSNR leaves it out in every row.
    folder = tmp_path / "gray"
    for path in list_images(photos):
        gray = cv2.cvtColor(resize(read_rgb(path), 64, 64), cv2.COLOR_RGB2GRAY)
        write_png(folder / path.with_suffix(".png").name, np.repeat(gray[:, :, None], 3, axis=2))
    code, output = run(
        tmp_path,
        "--images-dir",
        folder,
        "--checkpoint",
        "Random",
        save_generator(tmp_path / "a.pt"),
        "--img-size",
        64,
    )
    rows = read_rows(output)
    assert code == 0 and "psnr" not in rows["Grayscale"]
    assert rows["Grayscale"]["ssim"] == pytest.approx(1, abs=1e-5)
    assert rows["Random"]["colorfulness"] > 1 and rows["Random"]["ssim"] < 0.999
    assert "4 images, 4 of them gray" in (output / "report.md").read_text()


def test_main_names_missing_and_broken_images(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truths, finished = tmp_path / "truths", tmp_path / "finished"
    shutil.copytree(photos, truths)
    shutil.copytree(photos, finished)
    names = [path.name for path in list_images(photos)]
    (truths / "broken.jpg").write_bytes((truths / names[0]).read_bytes()[:500])
    (finished / names[0]).unlink()
    (finished / names[1]).write_bytes(b"no image")
    code, output = run(tmp_path, "--images-dir", truths, "--results", "Model", finished, "--img-size", 32)
    assert code == 0
    rows, content = read_rows(output), json.loads((output / "evaluation_metrics.json").read_text())
    assert rows["Model"]["images"] == 2 and rows["Ground Truth"]["images"] == 4
    assert rows["Model"]["psnr"] == "inf" and rows["Model"]["delta_colorfulness"] == 0
    assert [Path(path).name for path in rows["Model"]["missing"]] == names[:2]
    assert [Path(path).name for path in content["skipped"]] == ["broken.jpg"]
    screen = capsys.readouterr().out
    for text in (screen, (output / "report.md").read_text()):
        assert "broken.jpg: " in text and f"{names[0]}: no file of this name" in text and f"{names[1]}: not" in text
    assert "1 images skipped, 2 missing" in screen


def test_main_shows_no_figure_where_none_of_its_images_can_be_read(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(calculate_metrics, "FIGURE_IMAGES", 1)
    truths = tmp_path / "truths"
    shutil.copytree(photos, truths)
    (chosen,) = choose_fixed_images(list_images(truths), 1)
    chosen.write_bytes(b"no image")
    code, output = run(tmp_path, "--images-dir", truths, "--results", "Copy", photos, "--img-size", 32)
    assert code == 0 and read_rows(output)["Copy"]["images"] == 3
    assert {path.name for path in output.iterdir()} == WRITTEN - {"comparison.png"}
    assert "comparison.png" not in (output / "report.md").read_text() + capsys.readouterr().out


def test_main_takes_the_default_and_the_newest_checkpoint_of_each_stage(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config, "DEFAULT_CHECKPOINT", tmp_path / "G_default.pt")
    save_generator(tmp_path / "G_default.pt")
    for name in ("G_epoch_005.pt", "G_epoch_010.pt"):
        save_generator(tmp_path / "checkpoints_subset" / name)
    save_generator(tmp_path / "checkpoints_finetune" / "G_ft_fromE4_vgg_epoch_01.pt")
    code, output = run(tmp_path, "--images-dir", photos, "--img-size", 32, "--max-images", 2)
    rows = read_rows(output)
    assert code == 0 and list(rows) == ["Default", "Subset", "Finetune+VGG", "Grayscale", "Ground Truth"]
    assert rows["Subset"]["source"]["checkpoint"].endswith("G_epoch_010.pt")
    assert rows["Subset"]["images"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "run python train_lab.py first"),
        (("--results", "Ground Truth", "{photos}"), "Ground Truth: 2 rows of this name"),
        (("--results", "Empty", "{empty}"), "no images there"),
        (("--results", "Other", "{other}"), "no image there has the name of one of"),
        (("--checkpoint", "Gone", "{empty}/gone.pt"), "gone.pt"),
        (("--results", "Copy", "{photos}", "--img-size", "8"), "--img-size at least 16"),
        (("--results", "Copy", "{photos}", "--inception-weights", "{empty}/gone.pth"), "gone.pth: no such file"),
    ],
)
def test_main_refuses_what_it_cannot_score(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config, "DEFAULT_CHECKPOINT", tmp_path / "G_default.pt")
    places = {"photos": photos, "empty": tmp_path / "empty", "other": tmp_path / "other"}
    places["empty"].mkdir()
    write_png(places["other"] / "other.png", np.zeros((32, 32, 3), np.uint8))
    code, output = run(tmp_path, "--images-dir", photos, *(argument.format(**places) for argument in arguments))
    error = capsys.readouterr().err
    assert code == 2 and message in error and error.count("\n") == 1
    assert not output.exists()


def test_main_refuses_a_folder_of_broken_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"no image")
    code, output = run(tmp_path, "--images-dir", folder, "--results", "Copy", folder)
    assert code == 2 and "none of its 1 images can be read" in capsys.readouterr().err
    assert not output.exists()


def test_predict_at_gives_the_generator_the_size_of_its_training() -> None:
    seen = []

    def generator(l: torch.Tensor) -> torch.Tensor:
        seen.append(l.shape)
        return l.repeat(1, 2, 1, 1)

    l = torch.full((2, 1, 256, 256), 0.25)
    ab = calculate_metrics.predict_at(generator, 96, l)
    assert seen == [(2, 1, 96, 96)] and ab.shape == (2, 2, 256, 256)
    assert torch.allclose(ab, torch.tensor(0.25), atol=1e-6)
    assert torch.equal(calculate_metrics.predict_at(generator, 256, l), l.repeat(1, 2, 1, 1))


def torchrun(processes: int, script: Path, *arguments: object) -> subprocess.CompletedProcess:
    """Run a script in several processes of one core each."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*start, str(script), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def test_two_processes_write_the_report_of_one(
    sample_coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truths, finished = tmp_path / "truths", tmp_path / "finished"
    names = [path.name for path in list_images(sample_coco / "test2017")]
    shutil.copytree(sample_coco / "test2017", truths)
    darker(truths, finished)
    (truths / names[1]).write_bytes(b"no image")
    for name in (names[0], names[3]):
        (finished / name).with_suffix(".png").unlink()
    write_png(truths / "gray.png", np.full((64, 64, 3), 99, np.uint8))
    checkpoint = save_generator(tmp_path / "a.pt")
    common = ["--images-dir", truths, "--checkpoint", "Random", checkpoint, "--results", "Dark", finished]
    common += ["--inception-weights", "stand-in", "--lpips-weights", "stand-in", "--img-size", 176, "--batch-size", 2]
    code, alone = run(tmp_path / "alone", *common)
    screen = capsys.readouterr().out
    together = tmp_path / "together" / "evaluation"
    done = torchrun(2, ROOT / "calculate_metrics.py", *common, "--device", "cpu", "--output-dir", together)
    assert code == 0 and done.returncode == 0, done.stderr
    assert {path.name for path in together.iterdir()} == WRITTEN
    assert done.stdout.replace(str(together), str(alone)) == screen, "rank 0 alone prints"
    assert done.stderr.count("scoring:   0%") == 1
    one, two = read_rows(alone), read_rows(together)
    assert list(one) == list(two)
    for name, row in one.items():
        for key, value in row.items():
            assert two[name][key] == (pytest.approx(value, rel=1e-6) if isinstance(value, float) else value), name
    assert list(one["Dark"]["missing"]) == list(two["Dark"]["missing"]) and one["Dark"]["images"] == 3
    contents = [json.loads((folder / "evaluation_metrics.json").read_text()) for folder in (alone, together)]
    assert contents[0]["skipped"] == contents[1]["skipped"] and len(contents[0]["skipped"]) == 1
    lines = []
    for folder in (alone, together):
        with open(folder / "per_image.csv", newline="") as file:
            lines.append(list(csv.DictReader(file)))
    assert len(lines[0]) == len(lines[1]) == 3 * len(names) + 3, "of 7 images one is broken; Dark has 3"
    for line, other in zip(*lines, strict=True):
        assert line.keys() == other.keys()
        for title in line:
            exact = title in ("Path", "Model") or not line[title]
            expected = line[title] if exact else pytest.approx(float(line[title]), rel=1e-4, abs=1e-6)
            assert (other[title] if exact else float(other[title])) == expected, (line["Path"], title)
    a, b = (cv2.imread(str(folder / "comparison.png")).astype(float) for folder in (alone, together))
    assert a.shape == b.shape and np.abs(a - b).mean() < 0.01


FAILS_ON_RANK_1 = """
import os, sys
sys.path.insert(0, {root!r})
import calculate_metrics
import config

def fail(*arguments):
    if os.environ["RANK"] == "1":
        raise calculate_metrics.UserError("broken on one process")

calculate_metrics.score_batch = fail
sys.exit(calculate_metrics.main())
"""


def test_an_error_of_one_process_ends_the_run_with_its_reason(photos: Path, tmp_path: Path) -> None:
    script = tmp_path / "fails.py"
    script.write_text(FAILS_ON_RANK_1.format(root=str(ROOT)))
    output = tmp_path / "out"
    common = ["--inception-weights", "none", "--lpips-weights", "none", "--device", "cpu", "--img-size", 32]
    common += ["--output-dir", output]
    done = torchrun(2, script, "--images-dir", photos, "--results", "Copy", photos, *common)
    assert done.returncode != 0 and done.stderr.count("error: broken on one process") == 1
    assert not output.exists()
