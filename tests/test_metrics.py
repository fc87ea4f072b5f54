from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import skimage.data
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor, nn
from torch_fidelity import feature_extractor_inceptionv3
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
)
from torchmetrics.image import PeakSignalNoiseRatio
from torchmetrics.image.fid import FrechetInceptionDistance

from utils.lab import decode_lab, encode_lab, network_to_rgb, to_uint8
from utils.metrics import (
    FID,
    MS_SSIM_MIN_SIZE,
    RandomFeatures,
    StructuralSimilarity,
    ab_l1,
    colorfulness,
    load_fid,
    mean_score,
    psnr,
    validate,
)
from utils.run import UserError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def photos() -> tuple[Tensor, Tensor]:
    """Three photographs, (3, 3, 176, 176) in [0, 1], and the same with less color and some noise."""
    crops = [
        skimage.data.astronaut()[:176, 100:276],
        skimage.data.chelsea()[:176, :176],
        skimage.data.coffee()[:176, :176],
    ]
    truth = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2) / 255
    gray = truth.mean(dim=1, keepdim=True)
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    strength = torch.tensor([0.3, 0.6, 0.9]).reshape(3, 1, 1, 1)
    return truth + strength * (gray - truth) + 0.02 * noise, truth


def to_hwc(image: Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).double().numpy()


def test_psnr_of_constant_difference() -> None:
    # MSE = d^2, so PSNR = -20 log10 d: 20 dB for 0.1, 40 dB for 0.01, and each image has its own.
    truth = torch.full((2, 3, 8, 8), 0.5)
    images = truth + torch.tensor([0.1, 0.01]).reshape(2, 1, 1, 1)
    assert psnr(images, truth).tolist() == pytest.approx([20, 40], abs=1e-3)


def test_psnr_of_equal_images_is_infinite() -> None:
    truth = torch.rand(2, 3, 8, 8)
    assert psnr(truth, truth).tolist() == [math.inf, math.inf]


def test_psnr_agrees_with_skimage_and_torchmetrics(photos: tuple[Tensor, Tensor]) -> None:
    images, truth = photos
    for value, image, true in zip(psnr(images, truth), images, truth, strict=True):
        assert float(value) == pytest.approx(
            peak_signal_noise_ratio(to_hwc(true), to_hwc(image), data_range=1.0), abs=1e-4
        )
        assert float(value) == pytest.approx(float(PeakSignalNoiseRatio(data_range=1.0)(image, true)), abs=1e-4)


def similarity(images: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    return StructuralSimilarity(truth).score(images)


def torchmetrics_similarity(images: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """SSIM and MS-SSIM of each image."""
    settings = {"data_range": 1.0, "reduction": "none"}
    ssim = structural_similarity_index_measure(images, truth, **settings)
    if min(images.shape[2:]) < MS_SSIM_MIN_SIZE:
        return ssim, torch.full_like(ssim, math.nan)
    return ssim, multiscale_structural_similarity_index_measure(images, truth, **settings)


def corner(image: np.ndarray, height: int, width: int) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image[:height, :width])).permute(2, 0, 1) / 255


@pytest.mark.parametrize("size", [(256, 256), (177, 251), (175, 200), (16, 17)])
def test_structural_similarity_agrees_with_torchmetrics(size: tuple[int, int]) -> None:
    photo, other = corner(skimage.data.astronaut(), *size), corner(skimage.data.coffee(), *size)
    noise = torch.rand(photo.shape, generator=torch.Generator().manual_seed(0))
    images, truth = torch.stack([other, 0.9 * photo + 0.1 * noise, 1 - photo]), torch.stack([photo] * 3)
    for values, expected in zip(similarity(images, truth), torchmetrics_similarity(images, truth), strict=True):
        torch.testing.assert_close(values, expected, atol=1e-5, rtol=0, equal_nan=True)


@pytest.mark.parametrize(("size", "count"), [((176, 176), 3), ((17, 16), 9)], ids=["few large", "all small"])
def test_structural_similarity_is_exact_where_float32_loses_digits(size: tuple[int, int], count: int) -> None:
    # torchmetrics itself, in float32, is off by up to 3e-4 here.
    photo = corner(skimage.data.chelsea(), *size)
    white, squares = torch.ones_like(photo), torch.zeros_like(photo)
    squares[:, ::2, ::2] = squares[:, 1::2, 1::2] = 1
    pairs = [
        *((white - squares / 255, white), (white / 3, white / 3), (white / 2, photo), (photo, white), (photo, photo)),
        *((squares, 1 - squares), (white, 0 * white), (0 * white, 0 * white), (white / 2, white / 4)),
    ]
    images, truth = (
        torch.stack(side) for side in zip(*pairs[:count], strict=True)
    )  # in float64 torchmetrics is slow
    expected = torchmetrics_similarity(images.double(), truth.double())
    for values, exact in zip(similarity(images, truth), expected, strict=True):
        assert values.dtype == torch.float32
        torch.testing.assert_close(values.double(), exact, atol=2e-6, rtol=0, equal_nan=True)


def test_ssim_agrees_with_skimage(photos: tuple[Tensor, Tensor]) -> None:
    # The two treat the border differently, so the photographs get a frame on which both see a constant.
    images, truth = (nn.functional.pad(side, (16, 16, 16, 16), value=0.5) for side in photos)
    for value, image, true in zip(similarity(images, truth)[0], images, truth, strict=True):
        _, expected = structural_similarity(
            to_hwc(true), to_hwc(image), data_range=1.0, channel_axis=2, full=True,
            gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        )  # fmt: skip
        assert float(value) == pytest.approx(expected.mean(), abs=1e-5)


def test_ssim_of_constant_images() -> None:
    # No variance: SSIM is its luminance term (2xy + c1) / (x^2 + y^2 + c1), c1 = 0.01^2; here x = 0.5, y = 0.25.
    values, _ = similarity(torch.full((1, 3, 16, 16), 0.5), torch.full((1, 3, 16, 16), 0.25))
    assert float(values) == pytest.approx((2 * 0.125 + 1e-4) / (0.25 + 0.0625 + 1e-4), abs=1e-5)


def test_ms_ssim_of_small_images_is_nan() -> None:
    assert similarity(torch.rand(2, 3, 175, 200), torch.rand(2, 3, 175, 200))[1].isnan().tolist() == [True, True]
    assert float(similarity(torch.ones(1, 3, 176, 176), torch.ones(1, 3, 176, 176))[1]) == pytest.approx(1)


@pytest.mark.parametrize(
    "measure",
    [psnr, lambda *sides: similarity(*sides)[0], lambda *sides: similarity(*sides)[1]],
    ids=["psnr", "ssim", "ms_ssim"],
)
def test_measures_do_not_depend_on_batching(photos: tuple[Tensor, Tensor], measure) -> None:
    images, truth = (side.repeat(3, 1, 1, 1) for side in photos)  # 27 planes: more than a CPU takes at once
    one_by_one = torch.cat([measure(images[i : i + 1], truth[i : i + 1]) for i in range(3)])
    assert measure(images, truth).shape == (9,)
    torch.testing.assert_close(measure(images, truth), one_by_one.repeat(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(measure(images[[2, 0]], truth[[2, 0]]), one_by_one[[2, 0]], atol=1e-5, rtol=0)


def test_structural_similarity_serves_several_sets_and_changes_no_image(photos: tuple[Tensor, Tensor]) -> None:
    images, truth = photos
    kept = [side.clone() for side in photos]
    compared = StructuralSimilarity(truth)
    first = compared.score(images)
    torch.testing.assert_close(compared.score(truth), (torch.ones(3), torch.ones(3)), atol=1e-6, rtol=0)
    torch.testing.assert_close(compared.score(images), first, atol=0, rtol=0)
    assert all(map(torch.equal, photos, kept))


def pixels(*colors: tuple[int, int, int]) -> Tensor:
    return torch.tensor(colors, dtype=torch.float32).T.reshape(1, 3, 1, -1) / 255


def test_colorfulness_of_two_pixels() -> None:
    # Red and black: rg = 255, 0 and yb = 127.5, 0; means and deviations 127.5 and 63.75,
    # M3 = 1.3 sqrt(127.5^2 + 63.75^2).
    expected = 1.3 * math.hypot(127.5, 63.75)
    assert float(colorfulness(pixels((255, 0, 0), (0, 0, 0)))) == pytest.approx(expected, rel=1e-5)


def test_colorfulness_uses_signed_differences() -> None:
    # Red and green: rg = 255, -255 (mean 0, deviation 255; unsigned it would be 255 and 0), yb = 127.5 twice.
    assert float(colorfulness(pixels((255, 0, 0), (0, 255, 0)))) == pytest.approx(255 + 0.3 * 127.5, rel=1e-5)
    # Blue and yellow: rg = 0, yb = -255, 255.
    assert float(colorfulness(pixels((0, 0, 255), (255, 255, 0)))) == pytest.approx(255, rel=1e-5)


def test_colorfulness_of_gray_is_zero_for_each_image() -> None:
    gray = torch.rand(1, 1, 8, 8).expand(1, 3, 8, 8)
    values = colorfulness(torch.cat([gray, torch.rand(1, 3, 8, 8)]))
    assert values[0] == pytest.approx(0, abs=1e-4) and values[1] > 10


def test_ab_l1_is_in_lab_units() -> None:
    # A tenth of the networks' range is 11 units; a and b are averaged.
    real = torch.zeros(2, 2, 4, 4)
    fake = real.clone()
    fake[0, 0] += 0.1
    fake[1] -= 0.1
    assert ab_l1(fake, real).tolist() == pytest.approx([5.5, 11], rel=1e-5)


def test_mean_score_leaves_out_infinite_values() -> None:
    assert mean_score(torch.tensor([20.0, math.inf, 30.0])) == 25
    assert mean_score(torch.tensor([math.inf, math.inf])) == math.inf
    assert math.isnan(mean_score(torch.tensor([])))
    assert math.isnan(mean_score(torch.tensor([20.0, math.nan])))


class Recall(nn.Module):
    """A generator that knows the truth, scaled; it also notes its mode."""

    def __init__(self, ab: Tensor, scale: float) -> None:
        super().__init__()
        self.ab, self.scale, self.modes = ab, scale, []

    def forward(self, l: Tensor) -> Tensor:
        self.modes.append(self.training)
        first, self.ab = self.ab[: len(l)], self.ab[len(l) :]
        return self.scale * first


def stored_batches(photos: tuple[Tensor, Tensor], size: int) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """The photographs and a gray image as uint8 batches, and their ab as the networks see it."""
    images = [*to_uint8(photos[1]).permute(0, 2, 3, 1).numpy(), np.full((176, 176, 3), 99, np.uint8)]
    lab = torch.from_numpy(np.stack([encode_lab(np.ascontiguousarray(image)) for image in images])).permute(
        0, 3, 1, 2
    )
    l, ab = lab[:, :1], lab[:, 1:]
    return list(zip(l.split(size), ab.split(size), strict=True)), decode_lab(l, ab)[1]


def mean_psnr(images: Tensor, truth: Tensor) -> float:
    pairs = zip(images.numpy(), truth.numpy(), strict=True)
    return float(np.mean([peak_signal_noise_ratio(true, image, data_range=1.0) for image, true in pairs]))


@pytest.mark.parametrize("size", [1, 3, 4])
def test_validate_scores_images_with_color(photos: tuple[Tensor, Tensor], size: int) -> None:
    loader, ab = stored_batches(photos, size)
    generator = Recall(ab, 0.5).train()
    scores = validate(generator, loader, CPU, None)
    assert generator.training and not any(generator.modes)
    l = torch.cat([decode_lab(*batch)[0] for batch in loader])[:3]
    truth, fake, gray = (to_uint8(network_to_rgb(l, scale * ab[:3])) / 255 for scale in (1, 0.5, 0))
    expected = {
        "psnr": mean_psnr(fake, truth),
        "psnr_gray": mean_psnr(gray, truth),
        "l1_ab": 55 * float(ab[:3].abs().mean()),  # half of ab is missing, and 1 is 110 units
        "colorfulness": float(colorfulness(fake).mean()),
        "colorfulness_truth": float(colorfulness(truth).mean()),
    }
    assert scores == pytest.approx(expected, rel=1e-4)
    assert scores["psnr"] > scores["psnr_gray"] + 3


def test_validate_restores_eval_mode_and_takes_mixed_precision(photos: tuple[Tensor, Tensor]) -> None:
    loader, ab = stored_batches(photos, 4)
    generator = Recall(ab.bfloat16(), 1.0).eval()
    scores = validate(generator, loader, CPU, torch.bfloat16)
    assert not generator.training
    assert 40 < scores["psnr"] < math.inf, "bfloat16 has 8 bits"


def test_validate_of_gray_images_alone_is_nan(photos: tuple[Tensor, Tensor]) -> None:
    loader, ab = stored_batches(photos, 1)
    assert all(map(math.isnan, validate(Recall(ab[3:], 1.0), loader[3:], CPU, None).values()))


def test_fid_agrees_with_the_formula() -> None:
    # Heusel et al.: |m1 - m2|^2 + tr(C1 + C2 - 2 sqrt(C1 C2)), with NumPy and SciPy.
    source = torch.Generator().manual_seed(0)
    real = torch.randint(0, 256, (400, 3, 16, 16), generator=source, dtype=torch.uint8)
    fake = torch.randint(0, 200, (300, 3, 16, 16), generator=source, dtype=torch.uint8)
    fid = load_fid("stand-in", CPU)
    for part in real.split(150):
        fid.add_truth(part)
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


def test_fid_computes_truth_once_for_several_sets(photos: tuple[Tensor, Tensor]) -> None:
    images, truth = map(to_uint8, photos)
    network = CountedFeatures()
    fid = FID(network, "FD", CPU)
    fid.add_truth(truth)
    fid.add("same", truth[:2])
    fid.add("same", truth[2:])
    fid.add("noisy", images)
    assert network.seen == 9
    assert fid.score("same") == pytest.approx(0, abs=1e-4)
    assert fid.score(None) == pytest.approx(0, abs=1e-4)
    reference = FrechetInceptionDistance(feature=RandomFeatures())
    reference.update(truth, real=True)
    reference.update(images, real=False)
    assert fid.score("noisy") == pytest.approx(float(reference.compute()), rel=1e-4)
    assert fid.score("noisy") > 0.01


def test_fid_of_fewer_than_two_images_is_nan(photos: tuple[Tensor, Tensor]) -> None:
    fid = load_fid("stand-in", CPU)
    fid.add_truth(to_uint8(photos[1]))
    fid.add("one", to_uint8(photos[0][:1]))
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
