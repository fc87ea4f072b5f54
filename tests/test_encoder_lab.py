import pytest
import timm
import torch

from encoder_lab import LITE_SIZES, DepthwiseConv, EfficientNetLite, InvertedResidual


@pytest.mark.parametrize("name", LITE_SIZES)
def test_encoder_computes_what_timm_computes(name):
    torch.manual_seed(0)
    expected = timm.create_model(f"tf_efficientnet_{name}", features_only=True, in_chans=1).eval().double()
    for module in expected.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # else every one of them is the identity
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    encoder = EfficientNetLite(name).eval().double()
    encoder.load_state_dict(expected.state_dict())
    l = torch.rand(2, 1, 96, 64, dtype=torch.float64) * 2 - 1
    with torch.inference_mode():
        for found, feature in zip(encoder(l), expected(l), strict=True):
            assert torch.allclose(found, feature, atol=1e-9)
    assert encoder.channels == expected.feature_info.channels()


def test_load_imagenet_sees_gray_as_the_classifier_does():
    """Of a gray image the summed stem makes what the classifier's stem makes of three equal channels."""
    torch.manual_seed(0)
    classifier = timm.create_model("tf_efficientnet_lite0").eval()
    encoder = EfficientNetLite("lite0").eval()
    other_names = {f"_{name}": value for name, value in classifier.state_dict().items()}
    encoder.load_imagenet(other_names)
    l = torch.rand(1, 1, 64, 64) * 2 - 1
    with torch.inference_mode():
        expected = classifier.blocks(classifier.bn1(classifier.conv_stem(l.expand(-1, 3, -1, -1))))
        assert torch.allclose(encoder(l)[-1], expected, atol=1e-4)


def test_load_imagenet_refuses_other_weights():
    state = timm.create_model("tf_efficientnet_lite2").state_dict()
    encoder = EfficientNetLite("lite0")
    before = encoder.conv_stem.weight.clone()
    for wrong in (state, dict(list(EfficientNetLite("lite0").state_dict().items())), {}):
        with pytest.raises(ValueError, match="not the weights of this classifier"):
            encoder.load_imagenet(wrong)
    assert torch.equal(encoder.conv_stem.weight, before)


def test_requires_grad_lets_the_deeper_stages_learn_alone():
    encoder = EfficientNetLite("lite0")
    for learns in (True, False):
        encoder.requires_grad_(learns)
        assert not any(p.requires_grad for p in (*encoder.conv_stem.parameters(), *encoder.blocks[:3].parameters()))
        assert all(p.requires_grad == learns for p in encoder.blocks[3:].parameters())


def test_block_is_skipped_by_its_share_of_the_samples():
    torch.manual_seed(0)
    block, x = InvertedResidual(4, 4, 6, 3, 1).eval(), torch.rand(1, 4, 8, 8).expand(1000, -1, -1, -1)
    with torch.no_grad():
        added, kept = (block(x[:1]) - x[:1]).square().mean().sqrt(), block(x, 0.25) - x
    sizes = kept.square().mean(dim=(1, 2, 3)).sqrt() / added  # 0, or 1 / 0.75, so that the mean is 1
    skipped = sizes == 0
    assert 200 < skipped.sum() < 300 and torch.allclose(sizes[~skipped], torch.tensor(4 / 3), rtol=1e-4)


def test_share_of_skipped_blocks_rises_with_the_depth():
    encoder, shares = EfficientNetLite("lite0").eval(), []
    for block in encoder.blocks.modules():
        if isinstance(block, InvertedResidual):
            block.register_forward_pre_hook(lambda _, arguments: shares.append(arguments[1]))
    encoder(torch.rand(1, 1, 32, 32), 0.2)
    assert shares == pytest.approx([0.2 * i / 15 for i in range(16)])  # Lite0 has 16 blocks
    shares.clear()
    encoder(torch.rand(1, 1, 32, 32))
    assert not any(shares)


def test_depthwise_convolution_has_the_same_gradient_in_mixed_precision():
    torch.manual_seed(0)
    layer = DepthwiseConv(8, 5, 2)
    x = torch.rand(2, 8, 16, 16, requires_grad=True)
    expected = torch.autograd.grad(layer(x).square().sum(), (x, layer.weight))
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad(layer(x.bfloat16()).float().square().sum(), (x, layer.weight))
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=0.02, atol=0.02 * other.abs().max().item())
