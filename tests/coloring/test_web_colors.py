"""The colors of the page's photographs: kept as long as they are of use, and the same as if nothing was kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from coloring_subjects import CPU, PHOTO, Wild, visible_generator
from torch import nn

from utils.coloring.colorize import predict_ab, prepare
from utils.coloring.hints import Hint
from utils.images import read_picture, write_png

pytest.importorskip("gradio", reason="the page needs requirements-demo.txt")
import gradio as gr

from utils.coloring import web_colors
from utils.coloring.visits import Photo

BLUE, RED = Hint(100, 20, "#2040a0"), Hint(30, 70, "#a03020")


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[[nn.Module], web_colors.Colorizer]:
    """Make a colorizer of one generator, "G", that works at 64 pixels."""

    def make(generator: nn.Module) -> web_colors.Colorizer:
        monkeypatch.setattr(
            web_colors, "open_generator", lambda path, device: (generator, {"config": {"img_size": 64}})
        )
        return web_colors.Colorizer({"G": Path("G.pt")}, CPU)

    return make


@pytest.fixture
def photo(tmp_path: Path) -> Photo:
    write_png(tmp_path / "a.png", PHOTO)
    return Photo(tmp_path / "a.png", tmp_path / "a.png", PHOTO.shape[:2])


def test_predict_gives_what_the_network_gives_anew_and_runs_it_once(
    serve: Callable[[nn.Module], web_colors.Colorizer], photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator, runs = visible_generator(), []
    predict = generator.predict
    monkeypatch.setattr(generator, "predict", lambda l: runs.append(l) or predict(l))
    kept, seen = serve(generator), []
    for hints, saturation in (([], 1.0), ([BLUE], 1.0), ([BLUE, RED], 1.3), ([BLUE, RED], 0.0), ([RED], 1.0)):
        photo.hints[:] = hints
        seen.append(kept.predict(photo, "G", saturation))
        assert kept.predict(photo, "G", saturation) is seen[-1]
        anew = serve(generator).predict(Photo(photo.path, photo.path, photo.size, list(hints)), "G", saturation)
        assert torch.equal(seen[-1], anew)
    assert len(runs) == 1 + len(seen)  # once by `kept`, and once by each new one
    assert not any(torch.equal(ab, seen[0]) for ab in seen[1:])


def test_predict_multiplies_the_colors_of_a_network_that_takes_no_hints(
    serve: Callable[[nn.Module], web_colors.Colorizer], photo: Photo
) -> None:
    wild, plane = Wild(), prepare(read_picture(photo.path), 64)
    colorizer = serve(wild)
    photo.hints.append(BLUE)
    for saturation in (1.0, 0.3):
        expected = saturation * predict_ab(Wild(), [plane], CPU)[0]
        assert torch.equal(colorizer.predict(photo, "G", saturation), expected)
    assert len(wild.shapes) == 1


def test_see_forgets_what_was_not_used_for_longest(
    serve: Callable[[nn.Module], web_colors.Colorizer], photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_colors, "KEPT", 2)
    colorizer = serve(visible_generator())
    photos = [photo, *(Photo(photo.path, photo.path, photo.size) for _ in range(2))]
    for number in (0, 1, 0, 2):
        assert colorizer.color(photos[number], "G", 1.0).rgb.shape == PHOTO.shape
    assert [bool(each.seen) for each in photos] == [True, False, True] and len(colorizer.recent) == 2


def test_generator_says_on_the_page_that_a_checkpoint_is_gone(tmp_path: Path) -> None:
    with pytest.raises(gr.Error, match=r"G_epoch_001.pt: .*; choose another checkpoint"):
        web_colors.Colorizer({"Subset": tmp_path / "G_epoch_001.pt"}, CPU).generator("Subset")
