"""Color hints: their file, their planes, and what the network that comes with the project makes of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage.color
import torch
from coloring_subjects import CPU, PHOTO, Wild, visible_generator

import infer_lab
from config import DEFAULT_CHECKPOINT
from models_lab import Generator, PretrainedUNet
from utils.coloring.borders import Border
from utils.coloring.colorize import merge, predict_ab, prepare
from utils.coloring.exported import open_generator
from utils.coloring.hints import (
    DEFAULT_RADIUS,
    Hint,
    Recolorer,
    dump_hints,
    find_hints,
    hint_planes,
    parse_hints,
    takes_hints,
    without_hinted,
)
from utils.data.sample_set import load_photo
from utils.images import Picture, read_picture, write_png
from utils.lab import AB_SCALE
from utils.run import UserError
from utils.training.checkpoints import working_size

BLUE = "#2040a0"
WANTED = skimage.color.rgb2lab(np.array([0x20, 0x40, 0xA0]) / 255)[1:]


def hinted(planes: torch.Tensor) -> tuple[int, int, int, int]:
    """Give the first and last row, and the first and last column, of a rectangle of hinted pixels."""
    rows, columns = planes[2].nonzero().unbind(1)
    box = (rows.min().item(), rows.max().item(), columns.min().item(), columns.max().item())
    assert planes[2].sum() == (box[1] - box[0] + 1) * (box[3] - box[2] + 1)
    return box


def test_hint_planes_scales_the_place_and_the_radius() -> None:
    planes = hint_planes([Hint(120, 80, BLUE, 6)], (100, 200), torch.zeros(1, 50, 100))
    assert hinted(planes) == (37, 43, 57, 63)  # 40 and 60, and 3 on each side
    expected = torch.from_numpy(WANTED).float().view(2, 1, 1) / AB_SCALE
    torch.testing.assert_close(planes[:2], (expected * planes[2]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("hint", "box"),
    [
        (Hint(0, 0, BLUE, 0), (0, 0, 0, 0)),
        (Hint(999, 399, BLUE, 0.01), (39, 39, 99, 99)),
        (Hint(500, 0, BLUE), (0, DEFAULT_RADIUS, 50 - DEFAULT_RADIUS, 50 + DEFAULT_RADIUS)),
        (Hint(505, 205, BLUE, 70), (13, 27, 43, 57)),
        (Hint(505, 205, BLUE, 1e300), (0, 39, 0, 99)),
    ],
    ids=["corner", "tiny", "default", "large", "huge"],
)
def test_hint_planes_never_lose_a_hint(hint: Hint, box: tuple[int, ...]) -> None:
    assert hinted(hint_planes([hint], (400, 1000), torch.zeros(1, 40, 100))) == box


def test_hint_planes_let_the_last_of_two_count() -> None:
    both = hint_planes([Hint(9, 9, "#ff0000", 4), Hint(9, 9, "#808080", 0)], (20, 20), torch.zeros(1, 20, 20))
    assert both[0, 9, 9].abs() < 1e-4 and both[0, 8, 9] > 0.5 and both[2, 9, 9] == 1


def test_parse_hints_reads_what_dump_hints_writes() -> None:
    hints = (Hint(1, 2.5, BLUE), Hint(3, 4, "#00ff80", 6))
    read = parse_hints(dump_hints(hints, 30, 40).encode(), "a.json")
    assert read.hints == hints and read.size == (30, 40)
    assert parse_hints(b'[{"x": 1, "y": 2.5, "color": "#2040A0"}]', "a.json").hints == hints[:1]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[", "not a readable file of hints"),
        ("3", "not a readable file of hints"),
        ('{"width": 4, "height": 3}', "not a readable file of hints"),
        ('{"width": 4.5, "height": 3, "hints": []}', '"width" and "height"'),
        ('["here"]', "hint 1: must be an object"),
        ('[{"x": 1, "y": 2, "color": "#2040a0"}, {"x": 1, "y": 2, "color": "blue"}]', "hint 2: 'blue' is no color"),
        ('[{"x": 1, "y": 2}]', "hint 1: None is no color"),
        ('[{"x": "1", "y": 2, "color": "#2040a0"}]', "hint 1: \"x\" must be a number, not '1'"),
        ('[{"x": 1, "y": NaN, "color": "#2040a0"}]', 'hint 1: "y" must be a number, not nan'),
        ('[{"x": 1, "y": 2, "color": "#2040a0", "radius": true}]', 'hint 1: "radius" must be a number'),
        ('[{"x": 1, "y": 2, "color": "#2040a0", "radius": -1}]', 'hint 1: "radius" must not be negative'),
        ('[{"x": 1, "y": 2, "colour": "#2040a0"}]', "hint 1: 'colour' is unknown"),
    ],
)
def test_parse_hints_names_what_is_wrong(text: str, reason: str) -> None:
    with pytest.raises(UserError) as error:
        parse_hints(text.encode(), "a.json")
    assert str(error.value).startswith(f"a.json: {reason}") and "\n" not in str(error.value)


def test_find_hints_follows_the_folders_of_the_images(tmp_path: Path) -> None:
    for name in ("a.json", "._a.json", "deep/b.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("[]")
    images = {
        Path("in/a.jpg"): Path("a_jpg.png"),
        Path("in/a.png"): Path("a_png.png"),
        Path("in/c.png"): Path("c.png"),
    }
    assert list(find_hints(tmp_path, images, False)) == [Path("in/a.jpg"), Path("in/a.png")]
    with pytest.raises(UserError, match=r"deep/b.json: there is no image deep/b.\*"):
        find_hints(tmp_path, images, True)
    images[Path("in/deep/b.tif")] = Path("deep/b.png")
    assert list(find_hints(tmp_path, images, True))[-1] == Path("in/deep/b.tif")


def test_without_hinted_takes_a_side_with_a_hint_for_picture() -> None:
    border = Border(top=10, bottom=20, left=5, right=0)
    for x, y, left in ((4.9, 50, replace(border, left=0)), (50, 80, replace(border, bottom=0)), (50, 50, border)):
        assert without_hinted(border, [Hint(x, y, "#ff0000")], 100, 200) == left


@pytest.fixture(scope="module")
def shipped() -> tuple[Generator, int]:
    generator, info = open_generator(DEFAULT_CHECKPOINT, CPU)
    assert isinstance(generator, PretrainedUNet) and takes_hints(generator)
    return generator, working_size(info)


def test_shipped_network_without_hints_gives_what_it_gives_without_the_argument(
    shipped: tuple[Generator, int],
) -> None:
    generator, size = shipped
    photos = [load_photo(name)[:400, :600] for name in ("coffee", "rocket")]  # of one shape
    planes = [prepare(Picture(photo, None), size) for photo in photos]
    without = predict_ab(generator, planes, CPU)
    for none in ([None, None], [torch.zeros(3, *plane.shape[1:]) for plane in planes]):
        for ab, other in zip(without, predict_ab(generator, planes, CPU, hints=none), strict=True):
            assert torch.equal(ab, other)


@pytest.mark.parametrize(
    ("name", "x", "y", "color"),
    [("coffee", 430, 40, BLUE), ("coffee", 60, 330, "#a03020"), ("chelsea", 220, 150, "#308030")],
)
def test_hint_moves_its_place_and_leaves_what_is_far_away(
    shipped: tuple[Generator, int], name: str, x: int, y: int, color: str
) -> None:
    """Measured, in CIELAB units: 1 to 3 from the color; half a photograph away moved by 3.6, 0.3 on average."""
    generator, size = shipped
    photo = Picture(load_photo(name), None)
    l = prepare(photo, size)
    planes = hint_planes([Hint(x, y, color)], photo.rgb.shape[:2], l)
    before, after = (predict_ab(generator, [l], CPU, hints=[h])[0] * AB_SCALE for h in (None, planes))
    place = planes[2] > 0
    wanted = AB_SCALE * planes[:2, place].mean(dim=1)
    distances = [(ab[:, place].mean(dim=1) - wanted).norm() for ab in (before, after)]
    assert distances[1] < 5 and distances[1] < 0.1 * distances[0]
    row, column = place.nonzero().float().mean(dim=0)
    rows, columns = torch.arange(l.shape[1])[:, None], torch.arange(l.shape[2])
    far = (rows - row).square() + (columns - column).square() > (size / 2) ** 2
    moved = (after - before).norm(dim=0)[far]
    assert moved.max() < 6 and moved.mean() < 0.5


def test_predict_ab_of_a_batch_gives_each_plane_its_own_hints(shipped: tuple[Generator, int]) -> None:
    generator, _ = shipped
    planes = [prepare(Picture(np.ascontiguousarray(PHOTO[:, :width]), None), 60) for width in (90, 91)]
    hints = [None, hint_planes([Hint(40, 40, BLUE)], (100, 91), planes[1])]
    together = predict_ab(generator, planes, CPU, hints=hints)
    for ab, plane, hint in zip(together, planes, hints, strict=True):
        torch.testing.assert_close(ab, predict_ab(generator, [plane], CPU, hints=[hint])[0], atol=1e-4, rtol=0)
    assert (together[1] - predict_ab(generator, planes[1:], CPU)[0]).abs().max() > 0.1


@torch.inference_mode()
def test_recolorer_multiplies_before_hints_are_followed() -> None:
    """What the hints add is linear in the difference between them and the multiplied prediction."""
    generator = visible_generator()
    generator.head.conv.weight.mul_(8)
    l, hints = torch.rand(2, 1, 64, 96) * 2 - 1, torch.zeros(2, 3, 64, 96)
    asked, rows, columns = torch.tensor([0.2, -0.3]), slice(20, 28), slice(32, 40)
    hints[0, :, rows, columns] = torch.tensor([0.2, -0.3, 1.0]).view(3, 1, 1)
    prediction = generator(l)
    assert 0.5 < prediction.abs().max() < 1
    none, half, full, twice = (Recolorer(generator, saturation)(l, hints) for saturation in (0.0, 0.5, 1.0, 2.0))
    assert torch.equal(full, generator(l, hints)) and not torch.equal(full[0], prediction[0])
    torch.testing.assert_close(half[0], (none[0] + full[0]) / 2, atol=1e-5, rtol=0)
    for ab in (none, half, full, twice):  # NOISE, 0.03, keeps a share of the difference
        torch.testing.assert_close(ab[0, :, rows, columns].mean(dim=(1, 2)), asked, atol=0.04, rtol=0)
    assert torch.equal(twice[1], 2 * prediction[1]) and twice[1].abs().max() > 1  # the one without hints


@torch.inference_mode()
def test_recolorer_that_keeps_gives_the_same_without_running_the_generator_again(
    shipped: tuple[Generator, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator, size = shipped
    l = prepare(Picture(load_photo("coffee"), None), size)
    asked = [hint_planes([Hint(430, 40, color)], (400, 600), l) for color in (BLUE, "#a03020")]
    steps = [(1.0, None), (1.0, asked[0]), (0.4, asked[0]), (1.3, asked[1]), (0.8, None)]
    anew = [predict_ab(Recolorer(generator, s), [l], CPU, hints=[planes])[0] for s, planes in steps]
    kept, runs = Recolorer(generator, keep=True), []
    predict = generator.predict
    monkeypatch.setattr(generator, "predict", lambda l: runs.append(l) or predict(l))
    for (kept.saturation, planes), expected in zip(steps, anew, strict=True):
        assert torch.equal(predict_ab(kept, [l], CPU, hints=[planes])[0], expected)
    assert len(runs) == 1 and not generator.training


def test_recolorer_runs_a_generator_that_takes_no_hints_once() -> None:
    wild, l = Wild(), torch.rand(1, 30, 40)
    kept = Recolorer(wild, 0.5, keep=True)
    half, whole = predict_ab(kept, [l], CPU)[0], predict_ab(Wild(), [l], CPU)[0]
    kept.saturation = 2.0
    assert torch.equal(half, 0.5 * whole) and torch.equal(predict_ab(kept, [l], CPU)[0], 2 * whole)
    assert len(wild.shapes) == 1


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., int]:
    """Run infer_lab.py on "a.png" in `tmp_path`, which holds the photograph."""
    write_png(tmp_path / "a.png", PHOTO)

    def call(source: str, *arguments: object, checkpoint: Path = DEFAULT_CHECKPOINT) -> int:
        fixed = ["--device", "cpu", "--no-amp", "--num-workers", "1", "--output-dir", str(tmp_path / "out")]
        return infer_lab.main([str(tmp_path / source), str(checkpoint), *map(str, arguments), *fixed])

    return call


def test_infer_colors_as_the_hints_say(
    run: Callable[..., int], shipped: tuple[Generator, int], tmp_path: Path
) -> None:
    hints = [Hint(100, 20, BLUE, 3)]
    (tmp_path / "a.json").write_text(dump_hints(hints, 100, 151))
    assert run("a.png", "--hints", tmp_path / "a.json") == 0
    photo = Picture(PHOTO, None)
    l = prepare(photo, shipped[1])
    expected = merge(photo, predict_ab(shipped[0], [l], CPU, hints=[hint_planes(hints, PHOTO.shape[:2], l)])[0])
    np.testing.assert_array_equal(read_picture(tmp_path / "out" / "a.png").rgb, expected.rgb)


@pytest.mark.parametrize("saturation", [0, 0.5, 2])
def test_infer_gives_a_hint_its_color_at_any_saturation(
    run: Callable[..., int], tmp_path: Path, saturation: float
) -> None:
    """Measured, in CIELAB units: 0.5 to 0.7; at the L of the place sRGB can show this green."""
    (tmp_path / "a.json").write_text(dump_hints([Hint(100, 20, "#30a030", 3)], 100, 151))
    assert run("a.png", "--hints", tmp_path / "a.json", "--saturation", saturation) == 0
    ab = skimage.color.rgb2lab(read_picture(tmp_path / "out" / "a.png").rgb[19:22, 99:102])[:, :, 1:].mean((0, 1))
    assert np.linalg.norm(ab - skimage.color.rgb2lab(np.array([0x30, 0xA0, 0x30]) / 255)[1:]) < 2


def test_infer_gives_each_image_of_a_folder_its_own_hints(run: Callable[..., int], tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_png(tmp_path / "in" / f"{name}.png", PHOTO)
    (tmp_path / "hints").mkdir()
    (tmp_path / "hints" / "b.json").write_text(json.dumps([{"x": 100, "y": 20, "color": BLUE}]))
    (tmp_path / "hints" / "c.json").write_text("[]")
    assert run("in", "--hints", tmp_path / "hints") == 0
    a, b, c = (read_picture(tmp_path / "out" / f"{name}.png").rgb.astype(int) for name in ("a", "b", "c"))
    assert np.abs(a - c).max() <= 1  # float32 sums in another order
    assert np.abs(a - b)[15:25, 95:105].mean() > 10


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            '[{"x": 151, "y": 20, "color": "#2040a0"}]',
            "is 151x100: hint 1 of {path} lies outside it (x 151, y 20); move it inside",
        ),
        (
            '[{"x": 5, "y": -1, "color": "#2040a0"}]',
            "is 151x100: hint 1 of {path} lies outside it (x 5, y -1); move it inside",
        ),
        (
            '{"width": 100, "height": 151, "hints": []}',
            "is 151x100, but {path} is for an image of 100x151; place them anew",
        ),
    ],
)
def test_infer_refuses_hints_of_another_image(
    run: Callable[..., int], tmp_path: Path, text: str, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    assert run("a.png", "--hints", path) == 2
    assert capfd.readouterr().err == f"error: {tmp_path / 'a.png'}: {reason.format(path=path)}\n"
    assert not (tmp_path / "out").exists()


def test_infer_refuses_hints_that_nothing_can_take(
    run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    info = {"stage": "a", "epoch": 1, "step": 1, "config": {"img_size": 64}}
    opened = infer_lab.open_generator
    monkeypatch.setattr(
        infer_lab,
        "open_generator",
        lambda path, device: (torch.nn.Identity(), info) if path.suffix == ".onnx" else opened(path, device),
    )
    (tmp_path / "a.json").write_text("[]")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "z.json").write_text("[]")
    (tmp_path / "clip.mp4").touch()
    write_png(tmp_path / "in" / "a.png", PHOTO)
    write_png(tmp_path / "in" / "b.png", PHOTO)
    for source, hints, checkpoint, reason in [
        ("a.png", "a.json", tmp_path / "G.onnx", "G.onnx: takes no hints"),
        ("a.png", "no.json", DEFAULT_CHECKPOINT, "no.json: no such file"),
        ("in", "a.json", DEFAULT_CHECKPOINT, "for 2 images name a folder"),
        ("in", "two", DEFAULT_CHECKPOINT, "z.json: there is no image z.*"),
        ("in", "in", DEFAULT_CHECKPOINT, "contains no .json files"),
        ("clip.mp4", "a.json", DEFAULT_CHECKPOINT, "--hints: not for a video"),
    ]:
        assert run(source, "--hints", tmp_path / hints, checkpoint=checkpoint) == 2
        error = capfd.readouterr().err
        assert reason in error and error.count("\n") == 1
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", ["-0.1", "2.01", "nan"])
def test_infer_refuses_a_saturation_out_of_range(
    run: Callable[..., int], value: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("a.png", "--saturation", value) == 2
    assert f"--saturation {value}: must be in [0, 2]" in capfd.readouterr().err


def test_infer_multiplies_the_colors_by_the_saturation(
    run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(infer_lab, "open_generator", lambda path, device: (Wild(), {"stage": "any", "epoch": 1}))
    assert run("a.png", "--img-size", "64", "--saturation", "0.3") == 0
    photo = Picture(PHOTO, None)
    expected = merge(photo, 0.3 * predict_ab(Wild(), [prepare(photo, 64)], CPU)[0])
    np.testing.assert_array_equal(read_picture(tmp_path / "out" / "a.png").rgb, expected.rgb)
