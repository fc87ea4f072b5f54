from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import vgg16

from models_lab import GeneratorUNet
from utils.run import UserError
from utils.training.losses import VGG_LAYERS, LiteLoss, VGGLoss, gan_loss, perceptual_loss


@pytest.fixture(scope="module")
def vgg_loss() -> VGGLoss:
    return VGGLoss("stand-in")


@pytest.fixture(scope="module", params=["stand-in", "lite2"])
def loss(request) -> VGGLoss | LiteLoss:
    return perceptual_loss(request.param)


def test_vgg_loss_refuses_a_file_of_something_else(tmp_path):
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UserError, match=r"list.pt: not a state dict"):
        VGGLoss(str(tmp_path / "list.pt"))


def test_gan_loss_is_the_mean_squared_distance_to_the_label():
    scores = torch.tensor([0.0, 1.0, 3.0])
    assert gan_loss(scores, True).item() == pytest.approx((1 + 0 + 4) / 3)
    assert gan_loss(scores, False).item() == pytest.approx((0 + 1 + 9) / 3)
    assert gan_loss(scores.bfloat16(), True).dtype == torch.float32


def test_perceptual_loss_gradient_reaches_the_generator_and_not_the_loss(loss):
    generator = GeneratorUNet(width=8, depth=3)
    l, real_ab = torch.rand(2, 1, 32, 32) * 2 - 1, torch.rand(2, 2, 32, 32) - 0.5
    loss(l, generator(l), real_ab).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in generator.parameters())
    assert sum(p.grad.abs().sum() for p in generator.parameters()) > 0
    assert all(p.grad is None and not p.requires_grad for p in loss.parameters())


def test_perceptual_loss_descends_to_the_true_color(loss):
    """Following its gradient moves ab toward the truth: the loss says something about color."""
    torch.manual_seed(0)
    l, real_ab = torch.rand(1, 1, 32, 32) - 0.5, torch.full((1, 2, 32, 32), 0.3)
    ab = torch.zeros(1, 2, 32, 32, requires_grad=True)
    optimizer = torch.optim.Adam([ab], lr=0.02)
    for _ in range(20):
        optimizer.zero_grad()
        loss(l, ab, real_ab).backward()
        optimizer.step()
    left = 0.6 if isinstance(loss, VGGLoss) else 0.95  # a classifier's features care less for the color of noise
    assert (ab - real_ab).abs().mean() < left * 0.3


@pytest.mark.parametrize("side", [32, 40])
def test_perceptual_loss_of_the_truth_is_zero(loss, side):
    l, ab = torch.rand(1, 1, side, side), torch.rand(1, 2, side, side) - 0.5
    assert loss(l, ab, ab).item() == 0


def test_perceptual_loss_names_its_weights(loss):
    assert loss.label == ("lite2" if isinstance(loss, LiteLoss) else "stand-in")


def test_lite_loss_measures_each_channel_in_its_standard_deviations(monkeypatch):
    loss = LiteLoss()
    real = torch.tensor([[[[0.0, 2.0]], [[0.0, 200.0]]]])  # two channels; deviations 2 ** 0.5 and 100 * 2 ** 0.5
    taps = iter([[real], [real + torch.tensor([1.0, 100.0]).view(1, 2, 1, 1)]])
    monkeypatch.setattr(loss, "extract", lambda *_: next(taps))
    distance = loss(*(torch.zeros(1, n, 1, 1) for n in (1, 2, 2)))
    assert distance.item() == pytest.approx(0.5**0.5, abs=1e-3)


def test_vgg_loss_normalizes_as_imagenet_does(vgg_loss):
    seen = []
    handle = vgg_loss.features[0].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    vgg_loss.extract(torch.ones(1, 1, 8, 8), torch.zeros(1, 2, 8, 8))  # white
    handle.remove()
    expected = [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    assert seen[0].mean(dim=(0, 2, 3)).tolist() == pytest.approx(expected, abs=1e-3)


def test_vgg_layers_are_the_relus_of_their_names(vgg_loss):
    block, index, names = 1, 0, {}
    for position, layer in enumerate(vgg_loss.features):
        if isinstance(layer, nn.MaxPool2d):
            block, index = block + 1, 0
        elif isinstance(layer, nn.Conv2d):
            index += 1
        else:
            names[position] = f"relu{block}_{index}"
    assert {position: names[position] for position in VGG_LAYERS} == VGG_LAYERS


def test_vgg_loss_loads_torchvision_weights_from_a_file(tmp_path: Path):
    torch.manual_seed(1)
    with torch.device("meta"):
        features = vgg16(weights=None).features
    state = {f"features.{name}": torch.randn(value.shape) * 0.02 for name, value in features.state_dict().items()}
    state["classifier.0.bias"] = torch.zeros(4096)
    torch.save(state, tmp_path / "vgg16.pth")
    loss = VGGLoss(str(tmp_path / "vgg16.pth"))
    assert loss.label == "vgg16.pth"
    assert torch.equal(loss.features[0].weight, state["features.0.weight"])


def test_vgg_loss_explains_missing_or_wrong_weights(tmp_path: Path):
    with pytest.raises(UserError, match="no such file"):
        VGGLoss(str(tmp_path / "none.pth"))
    (tmp_path / "page.pth").write_text("<html>404</html>")
    with pytest.raises(UserError, match="not a weights file"):
        VGGLoss(str(tmp_path / "page.pth"))
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="not a state dict"):
        VGGLoss(str(tmp_path / "other.pth"))


def test_vgg_loss_explains_weights_that_cannot_be_fetched(tmp_path: Path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError("network is unreachable")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    with pytest.raises(UserError, match=r"cannot be fetched.*--vgg-weights FILE"):
        VGGLoss("imagenet")
