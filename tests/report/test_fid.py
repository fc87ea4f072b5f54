from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor
from torch_fidelity import feature_extractor_inceptionv3
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchmetrics.image.fid import FrechetInceptionDistance

from utils.report.fid import FID, RandomFeatures, load_fid
from utils.run import UserError

CPU = torch.device("cpu")


def random_images(seed: int, count: int = 3, levels: int = 256) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, levels, (count, 3, 16, 16), generator=generator, dtype=torch.uint8)


def test_fid_agrees_with_the_formula() -> None:
    # Heusel et al.: |m1 - m2|^2 + tr(C1 + C2 - 2 sqrt(C1 C2)), with NumPy and SciPy.
    real, fake = random_images(0, 400), random_images(1, 300, levels=200)
    fid = load_fid("stand-in", CPU)
    for part in real.split(150):
        fid.add("Ground Truth", part)
    for part in fake.split(70):
        fid.add("model", part)
    with torch.inference_mode():
        x, y = (RandomFeatures()(side).double().numpy() for side in (real, fake))
    c1, c2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    cross = scipy.linalg.sqrtm(c1 @ c2).real
    expected = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(c1 + c2 - 2 * cross)
    assert fid.score("model") == pytest.approx(expected, rel=1e-3)


class CountedFeatures(RandomFeatures):
    seen = 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return super().forward(images)


def test_fid_computes_truth_once_for_several_sets() -> None:
    images, truth = random_images(0), random_images(1)
    network = CountedFeatures()
    fid = FID(network, "FD", CPU)
    fid.add("Ground Truth", truth)
    fid.add("same", truth[:2])
    fid.add("same", truth[2:])
    fid.add("noisy", images)
    assert network.seen == 9
    assert fid.score("same") == pytest.approx(0, abs=1e-4)
    assert fid.score("Ground Truth") == pytest.approx(0, abs=1e-4)
    reference = FrechetInceptionDistance(feature=RandomFeatures())
    reference.update(truth, real=True)
    reference.update(images, real=False)
    assert fid.score("noisy") == pytest.approx(float(reference.compute()), rel=1e-4)
    assert fid.score("noisy") > 0.01


def test_fid_of_fewer_than_two_images_is_nan() -> None:
    fid = load_fid("stand-in", CPU)
    fid.add("Ground Truth", random_images(0))
    fid.add("one", random_images(1)[:1])
    assert math.isnan(fid.score("one")) and math.isnan(fid.score("none"))


def test_load_fid_never_calls_the_stand_in_fid() -> None:
    fid = load_fid("stand-in", CPU)
    assert fid.column == "FD (random stand-in)"
    torch.manual_seed(1)
    again = load_fid("stand-in", CPU)
    for a, b in zip(fid.network.buffers(), again.network.buffers(), strict=True):
        assert torch.equal(a, b)


def test_load_fid_none_is_none() -> None:
    assert load_fid("none", CPU) is None


def test_load_fid_says_in_one_line_that_weights_cannot_be_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(
        feature_extractor_inceptionv3, "URL_INCEPTION_V3", (tmp_path / "weights-6726825d.pth").as_uri()
    )
    assert load_fid("download", CPU) is None
    assert capsys.readouterr().out.startswith("no FID: ")
    (tmp_path / "weights-6726825d.pth").write_bytes(b"cut short")
    assert load_fid("download", CPU) is None, "the hash is checked"
    assert "hash" in capsys.readouterr().out
    assert not [path for path in (tmp_path / "hub").rglob("*") if path.is_file()]


def untrained_inception(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Random weights for torch-fidelity's network, of a size that keeps the scale of an image in its features."""
    with monkeypatch.context() as patch:
        patch.setattr(feature_extractor_inceptionv3, "load_state_dict_from_url", lambda *_, **__: None)
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        torch.manual_seed(0)
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    weights = network.state_dict()
    return {name: 2.4 * value if name.endswith("conv.weight") else value for name, value in weights.items()}


def test_load_fid_opens_inception_weights_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = untrained_inception(monkeypatch)
    torch.save(weights, tmp_path / "inception.pth")
    fid = load_fid(str(tmp_path / "inception.pth"), CPU)
    assert fid.column == "FID"
    loaded = fid.network.state_dict()
    assert weights.keys() == loaded.keys() and all(torch.equal(loaded[name], weights[name]) for name in weights)
    with torch.inference_mode():
        features = fid.network(torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8))
    assert features.shape == (1, 2048) and 0.01 < features.std() < 100


class Attack:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("attacked",)


@pytest.mark.parametrize("content", [{"weight": torch.zeros(1)}, [1, 2], Attack(), b"text"])
def test_load_fid_refuses_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(UserError, match=r"weights\.pth: not torch-fidelity's Inception weights"):
        load_fid(str(path), CPU)
    assert not (tmp_path / "attacked").exists()


def test_load_fid_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.pth: no such file"):
        load_fid(str(tmp_path / "gone.pth"), CPU)
