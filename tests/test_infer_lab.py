from __future__ import annotations

import os
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from coloring_subjects import ALPHA, CPU, PHOTO, PHOTO16, Wild, assert_keeps_lightness, visible_generator
from PIL import Image
from test_distributed import ROOT, torchrun

import config
import infer_lab
from infer_lab import main
from models_lab import GeneratorUNet
from utils.coloring import colorize as colorize_module
from utils.coloring import folders
from utils.coloring.colorize import colorize
from utils.images import Picture, read_picture, write_png
from utils.training.checkpoints import save_network

INFO = {"stage": "subset", "epoch": 3, "step": 9, "config": {"img_size": 32}}


@pytest.fixture
def generator_path(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "weights" / "G_any.pt"
    save_network(path, GeneratorUNet(width=4, depth=2), INFO)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five images in two folders, two of them with the same stem."""
    folder = tmp_path / "photos"
    write_png(folder / "a.png", PHOTO)
    Image.fromarray(PHOTO[:, :77]).save(folder / "a.jpg")
    write_png(folder / "deep" / "er" / "b.png", PHOTO16, ALPHA.astype(np.uint16) * 257)
    cv2.imwrite(str(folder / "deep" / "gray16.PNG"), PHOTO16[:, :, 0])
    Image.fromarray(PHOTO).convert("CMYK").save(folder / "deep" / "cmyk.tif")
    return folder


def run(*arguments: object) -> int:
    return main(["--device", "cpu", "--num-workers", "2", *map(str, arguments)])


def written(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_main_keeps_the_structure_and_the_kind_of_a_folder(
    photos: Path, generator_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    arguments = (photos, generator_path, "--output-dir", output, "--recursive", "--format", "png")
    assert run(*arguments) == 0
    names = ["a_jpg.png", "a_png.png", "deep/cmyk.png", "deep/er/b.png", "deep/gray16.png"]
    assert written(output) == names
    message = capsys.readouterr().out
    assert "colored 5 images" in message and str(output) in message and str(generator_path) in message
    for source, name in [("a.png", "a_png.png"), ("deep/gray16.PNG", "deep/gray16.png"), ("deep/er/b.png",) * 2]:
        picture, colored = read_picture(photos / source), read_picture(output / name)
        assert_keeps_lightness(picture, colored)
        assert (picture.alpha is None) == (colored.alpha is None)
    first = {name: (output / name).read_bytes() for name in names}
    assert run(*arguments) == 0
    assert {name: (output / name).read_bytes() for name in written(output)} == first


def test_main_equals_one_by_one(tmp_path: Path) -> None:
    generator = visible_generator()
    save_network(tmp_path / "G.pt", generator, {**INFO, "config": {"img_size": 64}})
    for index, (h, w) in enumerate([(100, 151), (60, 60), (100, 151), (90, 140), (60, 60), (100, 151)]):
        write_png(tmp_path / "in" / f"{index}.png", np.ascontiguousarray(PHOTO[-h:, -w:]))
    arguments = ("--output-dir", tmp_path / "out", "--batch-size", "2", "--no-amp")
    assert run(tmp_path / "in", tmp_path / "G.pt", *arguments) == 0
    for name in written(tmp_path / "in"):
        alone = colorize(generator, read_picture(tmp_path / "in" / name), 64, CPU)
        together = read_picture(tmp_path / "out" / name)
        assert alone.has_color and alone.rgb.shape == together.rgb.shape
        assert np.abs(alone.rgb.astype(int) - together.rgb).max() <= 1  # float32 sums in another order


def test_main_runs_similar_shapes_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = Wild()
    monkeypatch.setattr(infer_lab, "open_generator", lambda path, device: (generator, {"stage": "any", "epoch": 1}))
    for index, (h, w) in enumerate([(50, 80), (80, 50), (50, 79), (100, 160), (50, 80)]):
        write_png(tmp_path / "in" / f"{index}.png", np.ascontiguousarray(PHOTO[:h, :w]))
    arguments = ("--output-dir", tmp_path / "out", "--img-size", "60", "--batch-size", "6")  # 3 a worker
    assert run(tmp_path / "in", tmp_path / "G.pt", *arguments) == 0
    assert sorted(generator.shapes) == [(1, 1, 64, 96), (1, 1, 96, 64), (3, 1, 64, 96)]


def test_torchrun_colors_each_image_once_and_as_one_process_does(
    photos: Path, generator_path: Path, tmp_path: Path
) -> None:
    (photos / "broken.jpg").write_text("hello")
    arguments = ("infer_lab.py", photos, generator_path, "--recursive", "--format", "png")
    arguments += ("--device", "cpu", "--num-workers", "1")
    assert run(*arguments[1:6], "--output-dir", tmp_path / "1") == 0
    done = torchrun(2, *arguments, "--output-dir", tmp_path / "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("checkpoint: ") == 1 and done.stderr.count("  0%|") == 1  # a bar begins once
    assert done.stdout.count(f"skipped {photos / 'broken.jpg'}: not an image") == 1
    assert "colored 5 images" in done.stdout and ", skipped 1; they are in" in done.stdout
    names = written(tmp_path / "1")
    assert written(tmp_path / "2") == names and len(names) == 5
    for name in names:
        one, two = (read_picture(tmp_path / processes / name) for processes in "12")
        assert one.rgb.dtype == two.rgb.dtype
        levels = 257 if one.rgb.dtype == np.uint16 else 1
        assert np.abs(one.rgb.astype(int) - two.rgb).max() <= levels  # other batches round otherwise


def test_torchrun_ends_with_the_reason_where_one_process_fails(
    photos: Path, generator_path: Path, tmp_path: Path
) -> None:
    (tmp_path / "out" / "a.png").mkdir(parents=True)  # the second process cannot write its first image
    done = torchrun(2, "infer_lab.py", photos, generator_path, "--output-dir", tmp_path / "out", "--device", "cpu")
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert sum("a.png" in line for line in errors) == 1
    assert "[rank0]: Traceback" not in done.stderr


def test_coloring_imports_nothing_slow(photos: Path, generator_path: Path, tmp_path: Path) -> None:
    arguments = [str(photos), str(generator_path), "--output-dir", str(tmp_path), "--device", "cpu"]
    code = f"import sys, infer_lab; infer_lab.main({arguments}); print('modules', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    modules = set(done.stdout[done.stdout.index("modules ") :].split())
    assert "torch" in modules
    assert not modules & {
        "av",
        "gradio",
        "jinja2",
        "matplotlib",
        "onnxruntime",
        "pandas",
        "scipy",
        "skimage",
        "sympy",
        "tensorboard",
        "torch._dynamo",
        "torch_fidelity",
        "torchmetrics",
        "torchvision",
    }


def test_main_leaves_other_folders_alone(photos: Path, generator_path: Path, tmp_path: Path) -> None:
    assert run(photos, generator_path, "--output-dir", tmp_path / "out") == 0
    assert written(tmp_path / "out") == ["a.jpg", "a.png"]


def test_main_does_not_take_outputs_for_inputs(photos: Path, generator_path: Path) -> None:
    for _ in range(2):
        assert run(photos, generator_path, "--output-dir", photos / "out", "--recursive", "--compare") == 0
        names = ["a.jpg", "a.png", "deep/cmyk.tif", "deep/er/b.png", "deep/gray16.PNG"]
        panels = ["a_jpg.png", "a_png.png", "deep/cmyk.png", "deep/er/b.png", "deep/gray16.png"]
        assert written(photos / "out") == sorted([*names, *(f"compare/{name}" for name in panels)])


def test_main_writes_panels(photos: Path, generator_path: Path, tmp_path: Path) -> None:
    gray = np.repeat(PHOTO[:, :, 1:2], 3, axis=2)
    on_paper = cv2.copyMakeBorder(gray, 9, 9, 9, 9, cv2.BORDER_CONSTANT, value=(250, 246, 236))
    write_png(photos / "deep" / "on_paper.png", on_paper)
    assert run(photos / "deep", generator_path, "--output-dir", tmp_path / "out", "--compare") == 0
    panels = tmp_path / "out" / "compare"
    assert written(panels) == ["cmyk.png", "gray16.png", "on_paper.png"]
    assert read_picture(panels / "on_paper.png").rgb.shape == (118, 2 * 169 + 8, 3)  # the paper is not its true color
    assert read_picture(panels / "cmyk.png").rgb.shape == (100, 3 * 151 + 2 * 8, 3)
    assert read_picture(panels / "gray16.png").rgb.shape == (100, 2 * 151 + 8, 3)


def test_main_reads_a_list(photos: Path, generator_path: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("photos/deep/er/b.png\nphotos/a.jpg\nphotos/../photos/a.jpg\n")
    assert run(tmp_path / "list.txt", generator_path, "--output-dir", tmp_path / "out") == 0
    assert written(tmp_path / "out") == ["a.jpg", "deep/er/b.png"]


def test_main_skips_and_names_bad_images(
    photos: Path, generator_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (photos / "a.jpg").read_bytes()
    (photos / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "text.png").write_text("hello")
    assert run(photos, generator_path, "--output-dir", tmp_path / "out", "--batch-size", "1") == 0
    assert written(tmp_path / "out") == ["a.jpg", "a.png"]
    message = capsys.readouterr().out
    assert f"skipped {photos / 'cut.jpg'}: cut short" in message
    assert f"skipped {photos / 'text.png'}: not an image" in message
    assert "colored 2 images" in message and "skipped 2" in message


def test_main_says_what_it_found_and_what_a_format_cannot_hold(
    generator_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gray, exif = PHOTO[:, :, 1:2] / 255, Image.Exif()
    toned = np.rint((30, 20, 10) + gray * (210, 200, 180)).astype(np.uint8)
    exif[0x0110] = "a camera"
    (tmp_path / "in").mkdir()
    Image.fromarray(toned).save(tmp_path / "in" / "toned.jpg", exif=exif)
    write_png(tmp_path / "in" / "color.png", PHOTO16, ALPHA.astype(np.uint16) * 257)
    framed = cv2.copyMakeBorder(PHOTO, 9, 9, 9, 9, cv2.BORDER_CONSTANT, value=(250, 250, 250))
    write_png(tmp_path / "in" / "scan.png", framed)
    pages = [Image.fromarray(PHOTO), Image.fromarray(PHOTO)]
    pages[0].save(tmp_path / "in" / "pages.tif", save_all=True, append_images=pages[1:])
    shutil.copyfile(tmp_path / "in" / "toned.jpg", tmp_path / "in" / "saved.jfif")
    arguments = (tmp_path / "in", generator_path, "--compare", "--format", "jpg", "--quality", "80")
    assert run(*arguments, "--output-dir", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    for name, remark in [
        ("pages.tif", "of several pages or frames, of which the first is colored"),
        ("scan.png", "with a uniform border, which keeps its own pixels"),
        ("color.png", "written in 8 bits, as JPG holds no 16"),
        ("color.png", "laid on white, as JPG holds no transparency"),
    ]:
        assert f"1 image {remark}: {tmp_path / 'in' / name}\n" in printed
    assert "2 images toned, such as sepia, and colored from the lightness alone: " in printed
    panels = [
        read_picture(tmp_path / "out" / "compare" / f"{n}.png").rgb.shape[1] for n in ("color", "scan", "toned")
    ]
    assert panels == [3 * 151 + 16, 3 * 169 + 16, 2 * 151 + 8]
    scan = read_picture(tmp_path / "out" / "scan.jpg").rgb.astype(int)
    assert np.abs(scan[:4] - 250).max() <= 3
    for flag, camera in (("--metadata", "a camera"), ("--no-metadata", None)):
        assert run(*arguments, "--from", "gray", flag, "--output-dir", tmp_path / flag) == 0
        assert Image.open(tmp_path / flag / "toned.jpg").getexif().get(0x0110) == camera
        assert "toned, such" not in capsys.readouterr().out
        assert read_picture(tmp_path / flag / "compare" / "color.png").rgb.shape[1] == 2 * 151 + 8


def test_main_skips_a_pipe_and_colors_names_of_full_length_and_strips(
    generator_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "odd"
    long = "x" * 251 + ".png"
    write_png(folder / long, PHOTO)
    write_png(folder / "strip.png", np.full((2, 30_000, 3), 90, np.uint8))
    Image.new("RGB", (1_200_000, 1)).save(folder / "wide.bmp")  # more than a PNG can hold
    os.mkfifo(folder / "pipe.png")
    assert run(folder, generator_path, "--output-dir", tmp_path / "out", "--format", "png") == 0
    assert written(tmp_path / "out") == ["strip.png", long]
    assert read_picture(tmp_path / "out" / "strip.png").rgb.shape == (2, 30_000, 3)
    printed = capsys.readouterr().out
    assert "pipe.png: not a file" in printed and "wide.bmp: 1200000x1: more than a .png file can hold" in printed


def test_main_ends_in_one_line_for_a_single_bad_image(
    generator_path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.png").write_text("hello")
    assert run(tmp_path / "bad.png", generator_path, "--output-dir", tmp_path / "out") == 2
    error = capfd.readouterr().err
    assert error.startswith(f"error: {tmp_path / 'bad.png'}: not an image") and error.count("\n") == 1
    write_png(tmp_path / "large.png", PHOTO)
    assert run(tmp_path / "large.png", generator_path, "--max-pixels", 1000, "--output-dir", tmp_path / "out") == 2
    assert "large.png: 151x100: more than 1000 pixels; --max-pixels raises the limit\n" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_main_halves_the_batch_when_memory_runs_out(
    photos: Path, generator_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "same"
    for number in range(7):
        write_png(folder / f"{number}.png", np.roll(PHOTO, number, axis=0))
    assert run(folder, generator_path, "--output-dir", tmp_path / "whole") == 0
    capsys.readouterr()
    sizes = []

    def predict_ab(generator: GeneratorUNet, planes: list[torch.Tensor], *rest: object) -> list[torch.Tensor]:
        if len(planes) > room:
            raise torch.OutOfMemoryError
        sizes.append(len(planes))
        return colorize_module.predict_ab(generator, planes, *rest)

    monkeypatch.setattr(folders, "predict_ab", predict_ab)
    room = 2
    arguments = [str(folder), str(generator_path), "--num-workers", "1", "--device", "cpu", "--batch-size", "8"]
    assert main([*arguments, "--output-dir", str(tmp_path / "halved")]) == 0
    assert sum(sizes) == 7 and max(sizes) <= 2
    assert capsys.readouterr().out.count("out of memory") == 2  # 7 -> 3 -> 1
    for path in (tmp_path / "whole").iterdir():
        ours, other = (read_picture(f / path.name).rgb.astype(int) for f in (path.parent, tmp_path / "halved"))
        assert np.abs(ours - other).max() <= 1
    room = 0
    assert main([*arguments, "--output-dir", str(tmp_path / "none")]) == 2
    assert "out of memory; give a smaller --img-size" in capsys.readouterr().err


def test_main_fails_where_no_image_can_be_read(
    generator_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list.txt").write_text("gone.png\naway.jpg\n")
    assert run(tmp_path / "list.txt", generator_path, "--output-dir", tmp_path / "out") == 2
    captured = capsys.readouterr()
    assert "none of its 2 images" in captured.err
    assert "away.jpg: No such file" in captured.out and "gone.png: No such file" in captured.out


def test_main_never_overwrites_an_input(
    photos: Path, generator_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list.txt").write_text("photos/a.png\n")
    (tmp_path / "link").symlink_to(photos)
    before = {path: path.read_bytes() for path in photos.rglob("*") if path.is_file()}
    for source, output in [
        (photos / "a.png", photos),
        (photos, photos),
        (photos, tmp_path / "link"),
        (tmp_path / "link" / "a.png", photos),
        (tmp_path / "list.txt", photos),
    ]:
        assert run(source, generator_path, "--output-dir", output) == 2
        error = capsys.readouterr().err
        assert "photos" in error or "link" in error
        assert "--output-dir" in error and error.count("\n") == 1
    assert {path: path.read_bytes() for path in photos.rglob("*") if path.is_file()} == before


def test_main_colors_a_single_image_beside_itself_once(
    photos: Path, generator_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (photos / "deep" / "cmyk.tif", generator_path, "--output-dir", photos / "deep", "--format", "png")
    assert run(*arguments) == 0
    assert (photos / "deep" / "cmyk.png").exists()
    before = (photos / "deep" / "cmyk.png").read_bytes()
    assert run(*arguments) == 2
    assert (
        "cmyk.png: is there already, beside an input or above; name another --output-dir" in capsys.readouterr().err
    )
    assert (photos / "deep" / "cmyk.png").read_bytes() == before


def test_main_keeps_what_lies_in_a_folder_above_an_input(
    photos: Path, generator_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_png(photos / "deep" / "a.png", PHOTO)
    before = (photos / "a.png").read_bytes()
    assert run(photos / "deep", generator_path, "--output-dir", photos) == 2
    assert "a.png: is there already, beside an input or above" in capsys.readouterr().err
    assert (photos / "a.png").read_bytes() == before


def test_main_counts_what_it_does_not_color(
    photos: Path, generator_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("b.HEIC", "c.heic", "d.avi", "notes.txt", "deep/e.heic", "out/f.mp4"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).touch()
    assert run(photos, generator_path, "--output-dir", photos / "out") == 0
    assert "left alone: 2 .heic, 1 .avi; " in capsys.readouterr().out
    for name in ("a.png", "a.jpg"):
        (photos / name).unlink()
    assert run(photos, generator_path, "--output-dir", tmp_path / "out") == 2
    assert "--recursive looks into the folders there; there are 2 .heic, 1 .avi, " in capsys.readouterr().err


def test_main_points_to_recursive_where_all_images_lie_deeper(
    tmp_path: Path, generator_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_png(tmp_path / "album" / "1950" / "a.png", PHOTO)
    assert run(tmp_path / "album", generator_path, "--output-dir", tmp_path / "out") == 2
    assert "no images there" in (error := capsys.readouterr().err) and "--recursive" in error


def test_main_keeps_panels_and_outputs_apart(
    photos: Path, generator_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_png(photos / "compare" / "a.png", PHOTO)
    assert run(photos, generator_path, "--output-dir", tmp_path / "out", "--recursive", "--compare") == 2
    assert "compare" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_main_takes_the_default_and_then_the_newest_stage(
    photos: Path, generator_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config, "DEFAULT_CHECKPOINT", Path("default/G_default.pt"))
    monkeypatch.setattr(infer_lab, "DEFAULT_CHECKPOINT", Path("default/G_default.pt"))
    assert run(photos) == 2
    assert "no default/G_default.pt, and no checkpoint in checkpoints_subset" in capsys.readouterr().err
    newest = "checkpoints_finetune/G_finetune_epoch_04.pt"
    for stage in ["default/G_default.pt", "checkpoints_subset/G_epoch_030.pt", newest]:
        Path(stage).parent.mkdir(exist_ok=True)
        Path(stage).write_bytes(generator_path.read_bytes())
        assert run(photos) == 0
        assert str(Path(stage)) in capsys.readouterr().out
    assert written(tmp_path / "outputs") == ["a.jpg", "a.png"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--batch-size", "0"], "--batch-size 0"),
        (["--quality", "101"], "--quality 101: must be between 1 and 100"),
        (["--output-dir", "file"], "file: not a folder"),
        (["--device", "meta"], "--device meta: give cuda, cuda:N, mps or cpu"),
        (["--every", "2"], "--every: only for a video, which"),
        (["nowhere.pt"], "nowhere.pt"),
    ],
)
def test_main_names_a_wrong_setting(
    arguments: list[str],
    reason: str,
    photos: Path,
    generator_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    checkpoint = [] if "nowhere.pt" in arguments else [generator_path]
    assert run(photos, *checkpoint, *arguments) == 2
    assert reason in capsys.readouterr().err


def test_windows_bound_images_and_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "WINDOW_PIXELS", 500)
    images = []
    for index, (height, width) in enumerate([(10, 20), (10, 20), (10, 20), (90, 90), (5, 5), (5, 5), (5, 5)]):
        images.append(tmp_path / f"{index}.png")
        write_png(images[-1], np.zeros((height, width, 3), np.uint8))
    (tmp_path / "7.png").write_text("broken")
    images.append(tmp_path / "7.png")
    cut, pixels = zip(*folders._windows(images, most_images=3), strict=True)
    assert [[int(path.stem) for path in window] for window in cut] == [[0, 1], [2], [3], [4, 5, 6], [7]]
    assert pixels == (400, 200, 8100, 75, 0)


@pytest.mark.parametrize(("most_pixels", "images"), [(2000, 1), (6500, 2), (9500, 3)])
def test_main_bounds_the_pixels_in_memory(
    most_pixels: int, images: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(infer_lab, "open_generator", lambda path, device: (Wild(), {"stage": "any", "epoch": 1}))
    monkeypatch.setattr(folders, "WINDOW_PIXELS", 1000)
    monkeypatch.setattr(folders, "MOST_PIXELS", most_pixels)
    for index in range(8):
        write_png(tmp_path / "in" / f"{index}.png", np.ascontiguousarray(PHOTO[:50, index : index + 60]))
    pictures: list[weakref.ref[Picture]] = []
    in_memory = []

    def read_and_count(path: Path, max_pixels: int) -> Picture:
        in_memory.append(1 + sum(picture() is not None for picture in pictures))
        picture = read_picture(path, max_pixels=max_pixels)
        pictures.append(weakref.ref(picture))
        return picture

    monkeypatch.setattr(folders, "read_picture", read_and_count)
    assert run(tmp_path / "in", tmp_path / "G.pt", "--output-dir", tmp_path / "out", "--img-size", "60") == 0
    assert len(written(tmp_path / "out")) == len(in_memory) == 8
    assert max(in_memory) <= images
