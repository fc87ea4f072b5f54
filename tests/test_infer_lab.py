from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.color
import skimage.data
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import infer_lab
from infer_lab import colorize, colorize_batch, comparison, main, merge, prepare, working_shape
from models_lab import GeneratorUNet
from utils.checkpoint import save_network
from utils.images import MAX_ASPECT, Picture, read_picture, shorter_side_shape, write_png
from utils.lab import AB_SCALE

CPU = torch.device("cpu")
PHOTO = skimage.data.coffee()[100:300:2, 100:401:2]  # (100, 151, 3)
PHOTO16 = PHOTO.astype(np.uint16) * 257 - PHOTO % 7
ALPHA = np.tile(np.arange(PHOTO.shape[1], dtype=np.uint8), (PHOTO.shape[0], 1))


class Wild(nn.Module):
    """Colors far outside sRGB, strongest chroma on the finest scale; remembers the shapes it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, l: Tensor) -> Tensor:
        self.shapes.append(tuple(l.shape))
        return torch.cat([torch.sin(31 * l), torch.cos(23 * l)], dim=1)


class Constant(nn.Module):
    """The same color everywhere, in CIELAB units."""

    def __init__(self, a: float, b: float) -> None:
        super().__init__()
        self.ab = torch.tensor([a, b]).view(1, 2, 1, 1) / AB_SCALE

    def forward(self, l: Tensor) -> Tensor:
        return self.ab.expand(l.shape[0], 2, *l.shape[2:])


def assert_keeps_lightness(picture: Picture, colored: Picture) -> None:
    """The true color lies within half a level, and fit_gamut's tolerance, of each channel; L rises with each."""
    levels = np.iinfo(picture.rgb.dtype).max
    assert colored.rgb.dtype == picture.rgb.dtype and colored.rgb.shape == picture.rgb.shape
    own = skimage.color.rgb2lab(picture.rgb / levels)[:, :, 0]
    off = 0.5 / levels + 2e-4
    lowest, highest = (skimage.color.rgb2lab(colored.rgb / levels + sign * off)[:, :, 0] for sign in (-1, 1))
    assert (lowest <= own + 1e-3).all() and (own <= highest + 1e-3).all()


@pytest.fixture
def generator_path(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "weights" / "G_any.pt"
    save_network(path, GeneratorUNet(width=4, depth=2), {"stage": "subset", "epoch": 3, "config": {"img_size": 32}})
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
    return main([*map(str, arguments), "--device", "cpu", "--num-workers", "2"])


def written(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("shape", [(480, 640), (640, 427), (1, 1), (20, 31), (5000, 700), (3, 24)])
def test_working_shape_is_that_of_training(shape: tuple[int, int]) -> None:
    assert working_shape(*shape, 256) == shorter_side_shape(*shape, 256)


def test_working_shape_bounds_the_longer_side_of_a_strip() -> None:
    assert working_shape(100, 10_000, 256) == (20, 256 * MAX_ASPECT)
    assert working_shape(5000, 1, 256) == (256 * MAX_ASPECT, 1)


def test_prepare_gives_the_lightness_of_lab() -> None:
    lightness = prepare(Picture(PHOTO16, None), 100)
    expected = skimage.color.rgb2lab(PHOTO16 / 65535)[:, :, 0] / 50 - 1
    assert lightness.shape == (1, 100, 151) and lightness.dtype == torch.float32
    np.testing.assert_allclose(lightness[0], expected, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_merge_returns_every_gray_exactly_where_ab_is_zero(dtype: type) -> None:
    levels = np.arange(np.iinfo(dtype).max + 1).astype(dtype).reshape(16, -1)
    gray = np.repeat(levels[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(merge(Picture(gray, None), torch.zeros(2, 3, 3)).rgb, gray)


def test_merge_enlarges_ab_bilinearly() -> None:
    gray = np.full((61, 90, 3), 32768, np.uint16)
    ab = (torch.rand(2, 7, 9, generator=torch.Generator().manual_seed(0)) - 0.5) * 0.3
    lab = skimage.color.rgb2lab(merge(Picture(gray, None), ab).rgb / 65535)
    expected = F.interpolate(ab[None] * AB_SCALE, (61, 90), mode="bilinear", align_corners=False)[0]
    np.testing.assert_allclose(lab[:, :, 1:], expected.permute(1, 2, 0), atol=0.02)


def test_merge_averages_ab_for_an_input_below_the_working_size() -> None:
    gray = np.full((4, 5, 3), 32768, np.uint16)
    checkered = 0.2 * (torch.arange(80)[:, None] // 4 + torch.arange(100) // 4).remainder(2).expand(2, 80, 100)
    lab = skimage.color.rgb2lab(merge(Picture(gray, None), checkered).rgb / 65535)
    np.testing.assert_allclose(lab[:, :, 1:], 0.1 * AB_SCALE, atol=0.5)


@pytest.mark.parametrize("rgb", [PHOTO, PHOTO16, PHOTO[:5, :3]], ids=["8-bit", "16-bit", "tiny"])
def test_merge_does_not_depend_on_the_strips(rgb: np.ndarray) -> None:
    ab = torch.rand(2, 33, 50, generator=torch.Generator().manual_seed(0)) * 2 - 1
    whole = merge(Picture(rgb, None), ab, strip_pixels=2**30).rgb.astype(int)
    for strip_pixels in (1, 1000, 4096):
        difference = np.abs(merge(Picture(rgb, None), ab, strip_pixels).rgb - whole)
        # torch computes the last few values of a tensor another way: the last bit of a float can tip a rounding.
        assert difference.max() <= np.iinfo(rgb.dtype).max // 255
        assert (difference > 0).mean() < 1e-3


@pytest.mark.parametrize("size", [(100, 151), (1, 1), (1, 90), (97, 2), (41, 41)])
@pytest.mark.parametrize("rgb", [PHOTO, PHOTO16], ids=["8-bit", "16-bit"])
def test_colorize_keeps_size_depth_alpha_and_lightness(rgb: np.ndarray, size: tuple[int, int]) -> None:
    alpha = ALPHA[: size[0], : size[1]].astype(rgb.dtype)
    picture = Picture(np.ascontiguousarray(rgb[: size[0], : size[1]]), alpha)
    colored = colorize(Wild(), picture, 64, CPU)
    assert_keeps_lightness(picture, colored)
    assert colored.alpha is alpha


def test_colorize_keeps_the_lightness_of_gray_in_strong_color() -> None:
    gray = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    for a, b in [(90, 80), (-80, 70), (60, -100), (0, -110), (-110, -110)]:
        colored = colorize(Constant(a, b), Picture(gray, None), 16, CPU)
        assert_keeps_lightness(Picture(gray, None), colored)
        assert colored.has_color


def test_colorize_gives_the_predicted_color() -> None:
    gray = Picture(np.full((20, 30, 3), 30000, np.uint16), None)
    lab = skimage.color.rgb2lab(colorize(Constant(20, -15), gray, 16, CPU).rgb / 65535)
    np.testing.assert_allclose(lab[:, :, 1:], np.broadcast_to([20, -15], (20, 30, 2)), atol=0.02)


def test_colorize_restores_the_mode_of_the_generator() -> None:
    generator = GeneratorUNet(width=4, depth=2).train()
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    colorize(generator, Picture(PHOTO, None), 32, CPU)
    assert generator.training
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())


def test_colorize_batch_equals_one_by_one() -> None:
    torch.manual_seed(0)
    generator = GeneratorUNet(width=8, depth=3).eval()
    with torch.no_grad():
        generator.head.conv.weight.mul_(50)  # visible colors
    shapes = [(100, 151), (60, 60), (100, 151), (90, 140), (60, 60), (100, 151)]
    pictures = [Picture(np.ascontiguousarray(PHOTO[-h:, -w:]), None) for h, w in shapes]
    together = colorize_batch(generator, pictures, 64, CPU, batch_size=2)
    for picture, colored in zip(pictures, together, strict=True):
        alone = colorize(generator, picture, 64, CPU)
        assert alone.has_color and alone.rgb.shape == picture.rgb.shape
        assert np.abs(alone.rgb.astype(int) - colored.rgb).max() <= 1  # float32 sums in another order


def test_colorize_batch_runs_equal_shapes_together() -> None:
    generator = Wild()
    pictures = [Picture(PHOTO[:h, :w], None) for h, w in [(50, 60), (60, 50), (50, 60), (100, 120), (50, 60)]]
    colorize_batch(generator, pictures, 40, CPU, batch_size=3)
    assert generator.shapes == [(3, 1, 40, 48), (1, 1, 40, 48), (1, 1, 48, 40)]


def test_comparison_shows_the_truth_where_there_is_color() -> None:
    colored = Picture(PHOTO[:, ::-1], None)
    row = comparison(Picture(PHOTO, ALPHA), colored)
    assert row.shape == (100, 3 * 151 + 2 * 8, 3) and row.dtype == np.uint8
    assert (row[:, :151] == row[:, :151, :1]).all()
    np.testing.assert_allclose(
        skimage.color.rgb2lab(row[:, :151])[:, :, 0], skimage.color.rgb2lab(PHOTO)[:, :, 0], atol=0.3
    )
    assert (row[:, 151:159] == 255).all()
    np.testing.assert_array_equal(row[:, 159:310], PHOTO[:, ::-1])
    np.testing.assert_array_equal(row[:, 318:], PHOTO)
    gray = Picture(np.repeat(PHOTO16[:, :, :1], 3, axis=2), None)
    assert comparison(gray, Picture(PHOTO16, None)).shape == (100, 2 * 151 + 8, 3)


def test_comparison_shrinks_large_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infer_lab, "PANEL_SIDE", 75)
    assert comparison(Picture(PHOTO, None), Picture(PHOTO, None)).shape == (50, 3 * 75 + 2 * 8, 3)


def test_main_keeps_the_structure_and_the_kind_of_a_folder(
    photos: Path, generator_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert run(photos, generator_path, "--output-dir", output, "--recursive") == 0
    names = ["a_jpg.png", "a_png.png", "deep/cmyk.png", "deep/er/b.png", "deep/gray16.png"]
    assert written(output) == names
    message = capsys.readouterr().out
    assert "colored 5 images" in message and str(output) in message and str(generator_path) in message
    for source, name in [("a.png", "a_png.png"), ("deep/gray16.PNG", "deep/gray16.png"), ("deep/er/b.png",) * 2]:
        picture, colored = read_picture(photos / source), read_picture(output / name)
        assert_keeps_lightness(picture, colored)
        assert (picture.alpha is None) == (colored.alpha is None)
    first = {name: (output / name).read_bytes() for name in names}
    assert run(photos, generator_path, "--output-dir", output, "--recursive") == 0
    assert {name: (output / name).read_bytes() for name in written(output)} == first


def test_main_leaves_other_folders_alone(photos: Path, generator_path: Path, tmp_path: Path) -> None:
    assert run(photos, generator_path, "--output-dir", tmp_path / "out") == 0
    assert written(tmp_path / "out") == ["a_jpg.png", "a_png.png"]


def test_main_does_not_take_outputs_for_inputs(photos: Path, generator_path: Path) -> None:
    for _ in range(2):
        assert run(photos, generator_path, "--output-dir", photos / "out", "--recursive", "--compare") == 0
        names = ["a_jpg.png", "a_png.png", "deep/cmyk.png", "deep/er/b.png", "deep/gray16.png"]
        assert written(photos / "out") == sorted([*names, *(f"compare/{name}" for name in names)])


def test_main_writes_panels(photos: Path, generator_path: Path, tmp_path: Path) -> None:
    assert run(photos / "deep", generator_path, "--output-dir", tmp_path / "out", "--compare") == 0
    panels = tmp_path / "out" / "compare"
    assert written(panels) == ["cmyk.png", "gray16.png"]
    assert read_picture(panels / "cmyk.png").rgb.shape == (100, 3 * 151 + 2 * 8, 3)
    assert read_picture(panels / "gray16.png").rgb.shape == (100, 2 * 151 + 8, 3)


def test_main_reads_a_list(photos: Path, generator_path: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("photos/deep/er/b.png\nphotos/a.jpg\nphotos/../photos/a.jpg\n")
    assert run(tmp_path / "list.txt", generator_path, "--output-dir", tmp_path / "out") == 0
    assert written(tmp_path / "out") == ["a.png", "deep/er/b.png"]


def test_main_skips_and_names_bad_images(
    photos: Path, generator_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (photos / "a.jpg").read_bytes()
    (photos / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "text.png").write_text("hello")
    assert run(photos, generator_path, "--output-dir", tmp_path / "out", "--batch-size", "1") == 0
    assert written(tmp_path / "out") == ["a_jpg.png", "a_png.png"]
    message = capsys.readouterr().out
    assert f"skipped {photos / 'cut.jpg'}: cut short" in message
    assert f"skipped {photos / 'text.png'}: not an image" in message
    assert "colored 2 images" in message and "skipped 2" in message


def test_main_ends_in_one_line_for_a_single_bad_image(
    generator_path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.png").write_text("hello")
    assert run(tmp_path / "bad.png", generator_path, "--output-dir", tmp_path / "out") == 2
    error = capfd.readouterr().err
    assert error.startswith(f"error: {tmp_path / 'bad.png'}: not an image") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


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


def test_main_colors_a_single_image_beside_itself(photos: Path, generator_path: Path) -> None:
    assert run(photos / "deep" / "cmyk.tif", generator_path, "--output-dir", photos / "deep") == 0
    assert (photos / "deep" / "cmyk.png").exists()


def test_main_keeps_panels_and_outputs_apart(
    photos: Path, generator_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_png(photos / "compare" / "a.png", PHOTO)
    assert run(photos, generator_path, "--output-dir", tmp_path / "out", "--recursive", "--compare") == 2
    assert "compare" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_main_takes_the_newest_stage(
    photos: Path, generator_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(photos) == 2
    assert "train_lab.py" in capsys.readouterr().err
    for stage in ["checkpoints_subset/G_epoch_030.pt", "checkpoints_finetune/G_finetune_epoch_04.pt"]:
        Path(stage).parent.mkdir(exist_ok=True)
        Path(stage).write_bytes(generator_path.read_bytes())
        assert run(photos) == 0
        assert str(Path(stage)) in capsys.readouterr().out
    assert written(tmp_path / "outputs") == ["a_jpg.png", "a_png.png"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--batch-size", "0"], "--batch-size 0"),
        (["--output-dir", "file"], "file: not a folder"),
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
    monkeypatch.setattr(infer_lab, "WINDOW_PIXELS", 500)
    images = []
    for index, (height, width) in enumerate([(10, 20), (10, 20), (10, 20), (90, 90), (5, 5), (5, 5), (5, 5)]):
        images.append(tmp_path / f"{index}.png")
        write_png(images[-1], np.zeros((height, width, 3), np.uint8))
    (tmp_path / "7.png").write_text("broken")
    images.append(tmp_path / "7.png")
    cut = list(infer_lab._windows(images, most_images=3))
    assert [[int(path.stem) for path in window] for window in cut] == [[0, 1], [2], [3], [4, 5, 6], [7]]
