from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchmetrics.functional.image import learned_perceptual_image_patch_similarity, lpips
from torchvision.models import alexnet

from utils.report.lpips import MIN_SIZE, load_lpips
from utils.run import UserError

CPU = torch.device("cpu")
CACHED = "alexnet-owt-7be5be79.pth"  # what torchvision calls its download


@pytest.fixture(autouse=True)
def features(monkeypatch: pytest.MonkeyPatch) -> torch.nn.Sequential:
    """AlexNet's features with random weights, a stand-in for ImageNet's, which no test may fetch.

    Its classifier, which LPIPS does not use and which takes seconds to draw, is left out.
    """
    with torch.device("meta"):
        network = alexnet(weights=None).features
    network = network.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data.normal_(0, 0.05, generator=generator)

    def build(_: str, pretrained: bool = False) -> torch.nn.Sequential:
        with torch.device("meta"):
            fresh = alexnet(weights=None).features
        fresh = fresh.to_empty(device="cpu")
        for layer in fresh:
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
        return network if pretrained else fresh

    monkeypatch.setattr(lpips, "_get_tv_model_features", build)
    return network


def save_weights(path: Path, features: torch.nn.Sequential) -> Path:
    """Write the weights under the names of torchvision's alexnet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({f"features.{name}": value for name, value in features.state_dict().items()}, path)
    return path


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    truth = torch.rand(3, 3, 64, 64, generator=generator)
    return (truth + 0.1 * torch.rand(3, 3, 64, 64, generator=generator)).clamp(0, 1), truth


def test_lpips_of_a_file_is_that_of_torchmetrics(
    tmp_path: Path, features: torch.nn.Sequential, pair: tuple[Tensor, Tensor]
) -> None:
    metric = load_lpips(str(save_weights(tmp_path / "alexnet.pth", features)), 64, CPU)
    expected = learned_perceptual_image_patch_similarity(*pair, net_type="alex", reduction="none", normalize=True)
    assert metric.column == "LPIPS"
    scores = metric.score(*pair)
    assert scores.shape == (3,) and torch.allclose(scores, expected, rtol=1e-5) and (scores > 0).all()
    assert metric.score(pair[0][:1], pair[1][:1]).item() == pytest.approx(scores[0].item(), rel=1e-4)
    assert metric.score(pair[1], pair[1]).tolist() == [0, 0, 0]


def test_load_lpips_takes_what_torchvision_has_downloaded(
    tmp_path: Path, features: torch.nn.Sequential, pair: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    path = save_weights(tmp_path / "checkpoints" / CACHED, features)
    downloaded, read = (load_lpips(weights, 64, CPU) for weights in ("download", str(path)))
    assert downloaded.column == "LPIPS" and torch.equal(downloaded.score(*pair), read.score(*pair))


def test_load_lpips_never_calls_the_stand_in_lpips(pair: tuple[Tensor, Tensor]) -> None:
    torch.manual_seed(5)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    first = load_lpips("stand-in", 64, CPU)
    assert torch.equal(torch.rand(1), drawn), "the caller's random numbers are untouched"
    assert first.column == "PD (random stand-in)"
    assert torch.equal(first.score(*pair), load_lpips("stand-in", 64, CPU).score(*pair))


def test_load_lpips_says_in_one_line_that_weights_cannot_be_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    assert load_lpips("download", 64, CPU) is None
    screen = capsys.readouterr().out.splitlines()
    assert screen[-1].startswith("no LPIPS: ") and "(no route)" in screen[-1] and "--lpips-weights FILE" in screen[-1]
    assert len([line for line in screen if "LPIPS" in line]) == 1
    assert load_lpips("download-or-stand-in", 64, CPU).column == "PD (random stand-in)"


def test_load_lpips_needs_images_of_a_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert load_lpips("none", 64, CPU) is None and capsys.readouterr().out == ""
    assert load_lpips("stand-in", MIN_SIZE - 1, CPU) is None
    assert capsys.readouterr().out == f"no LPIPS: it needs --img-size {MIN_SIZE} or more\n"
    truth = torch.rand(1, 3, MIN_SIZE, MIN_SIZE)
    assert load_lpips("stand-in", MIN_SIZE, CPU).score(1 - truth, truth).item() > 0


@pytest.mark.parametrize("content", [{"features.0.weight": torch.zeros(1)}, [1, 2], b"text"])
def test_load_lpips_refuses_other_files(tmp_path: Path, content: object) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(UserError, match=r"weights\.pth: not torchvision's alexnet weights"):
        load_lpips(str(path), 64, CPU)


def test_load_lpips_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--lpips-weights .*gone\.pth: no such file"):
        load_lpips(str(tmp_path / "gone.pth"), 64, CPU)
