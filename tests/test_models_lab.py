import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from affinity_lab import even_out, follow_hints, lift_pale
from layers_lab import UpSample, norm_layer
from models_lab import GeneratorUNet, PatchDiscriminator, PretrainedUNet


@pytest.mark.parametrize("norm", ["batch", "instance", "group"])
@pytest.mark.parametrize("upsample", ["pixelshuffle", "resize"])
def test_generator_maps_any_size_to_ab_in_range(norm, upsample):
    generator = GeneratorUNet(width=16, depth=4, norm=norm, upsample=upsample).eval()
    for height, width in ((64, 64), (37, 53), (16, 100), (1, 1)):
        ab = generator(torch.rand(2, 1, height, width) * 2 - 1)
        assert ab.shape == (2, 2, height, width)
        assert ab.abs().max() <= 1


def test_generator_default_is_the_documented_size():
    assert 20e6 < sum(p.numel() for p in GeneratorUNet().parameters()) < 21e6


def test_generator_of_one_image_does_not_depend_on_the_batch():
    generator = GeneratorUNet(width=16, depth=4).eval()
    l = torch.rand(3, 1, 40, 40) * 2 - 1
    with torch.inference_mode():
        assert torch.allclose(generator(l)[1:2], generator(l[1:2]), atol=1e-5)


def test_generator_skip_connections_carry_detail():
    """With the bottleneck silenced, the output still follows the input."""
    generator = GeneratorUNet(width=16, depth=3).eval()
    nn.init.zeros_(generator.downs[-1].conv.weight)
    l = torch.rand(1, 1, 32, 32, requires_grad=True)
    generator(l).sum().backward()
    assert l.grad.abs().sum() > 0


@pytest.mark.parametrize("upsample", ["pixelshuffle", "resize"])
def test_upsample_starts_without_a_checkerboard(upsample):
    """A constant stays constant, and pixel-shuffle with ICNR starts as nearest-neighbor up-sampling."""
    generator = GeneratorUNet(width=16, depth=3, upsample=upsample)
    up = generator.ups[0].up
    x = torch.rand(1, up.conv.in_channels, 5, 5)
    out = up(x)
    corners = [out[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]
    assert all(torch.allclose(corner, corners[0], atol=1e-6) for corner in corners)
    flat = generator.eval()(torch.full((1, 1, 64, 64), 0.3))[..., 24:40, 24:40]
    assert flat.std(dim=(2, 3)).max() < 1e-4


def test_weights_are_drawn_from_a_narrow_normal():
    torch.manual_seed(0)
    weights = GeneratorUNet(width=32, depth=4).downs[2].conv.weight
    assert weights.std().item() == pytest.approx(0.02, rel=0.02)
    assert weights.mean().item() == pytest.approx(0, abs=1e-3)


def test_group_norm_takes_any_width():
    assert [norm_layer("group", channels).num_groups for channels in (8, 56, 64, 512)] == [1, 1, 4, 32]


def test_generator_rejects_unknown_arguments():
    with pytest.raises(ValueError, match="norm"):
        GeneratorUNet(norm="layer")
    with pytest.raises(ValueError, match="upsample"):
        GeneratorUNet(upsample="transposed")
    with pytest.raises(ValueError, match="depth"):
        GeneratorUNet(depth=1)
    for shrink in (0, 1.5, True):
        with pytest.raises(ValueError, match="shrink"):
            PatchDiscriminator(8, shrink=shrink)


def test_discriminator_has_a_receptive_field_of_70_pixels():
    """Measured: the pixels of the input that one score's gradient reaches. No norm: it would mix all pixels."""
    discriminator = PatchDiscriminator(width=8)
    for i, layer in enumerate(discriminator.layers):
        if isinstance(layer, nn.BatchNorm2d):
            discriminator.layers[i] = nn.Identity()
    l, ab = torch.rand(1, 1, 192, 192, requires_grad=True), torch.rand(1, 2, 192, 192, requires_grad=True)
    scores = discriminator(l, ab)
    assert scores.shape == (1, 1, 192 // 8 - 2, 192 // 8 - 2)
    scores[0, 0, 10, 12].backward()
    for gradient in (l.grad[0, 0], ab.grad[0, 0], ab.grad[0, 1]):
        rows, columns = gradient.nonzero().unbind(1)
        assert rows.max() - rows.min() + 1 == 70
        assert columns.max() - columns.min() + 1 == 70


def test_discriminator_depends_on_lightness_and_color():
    discriminator = PatchDiscriminator(width=8).eval()
    l, ab = torch.rand(1, 1, 64, 64), torch.rand(1, 2, 64, 64)
    score = discriminator(l, ab)
    assert not torch.allclose(score, discriminator(-l, ab))
    assert not torch.allclose(score, discriminator(l, -ab))


def test_init_icnr_is_for_pixelshuffle_alone():
    up = UpSample(4, 2, "resize")
    before = up.conv.weight.clone()
    up.init_icnr()
    assert torch.equal(up.conv.weight, before)


@pytest.fixture(scope="module")
def pretrained() -> PretrainedUNet:
    torch.manual_seed(0)
    return PretrainedUNet("lite0", channels=(32, 24, 16, 8)).eval()


@torch.inference_mode()
def test_pretrained_unet_predicts_ab_of_any_size(pretrained):
    for height, width in ((64, 96), (33, 70), (1, 9)):
        ab = pretrained(torch.rand(2, 1, height, width) * 2 - 1)
        assert ab.shape == (2, 2, height, width) and ab.abs().max() <= 1


@torch.inference_mode()
def test_pretrained_unet_without_hints_equals_no_argument(pretrained):
    l = torch.rand(1, 1, 50, 70) * 2 - 1
    assert torch.equal(pretrained(l), pretrained(l, torch.zeros(1, 3, 50, 70)))


def test_pretrained_unet_keeps_the_statistics_of_its_encoder():
    for mode in ("as it is made", "after eval"):
        network = PretrainedUNet("lite0", channels=(32, 24, 16, 8))
        if mode == "after eval":
            network.eval().train()
        encoder, decoder = network.encoder.bn1, network.ups[0].norm
        before = encoder.running_mean.clone(), decoder.running_mean.clone()
        network(torch.rand(2, 1, 64, 64))
        assert network.training and torch.equal(encoder.running_mean, before[0])
        assert not torch.equal(decoder.running_mean, before[1])


def test_pretrained_unet_drops_features_in_training_alone(pretrained):
    l = torch.rand(2, 1, 64, 64) * 2 - 1
    with torch.no_grad():
        assert torch.equal(pretrained(l), pretrained(l))
        trained = copy.deepcopy(pretrained).train()
        assert torch.equal(trained(l), trained(l))
        trained.dropout = 0.1
        features = [trained.predict(l)[1] for _ in range(2)]  # they come after both kinds
        assert not torch.equal(*features)
    unused = copy.deepcopy(pretrained)
    unused.dropout = 0.1
    with torch.inference_mode():
        assert torch.equal(unused(l), pretrained(l))


def test_pretrained_unet_drops_planes_and_skips_blocks(pretrained, monkeypatch):
    l, trained = torch.rand(2, 1, 64, 64) * 2 - 1, copy.deepcopy(pretrained).train()
    trained.dropout = 0.1
    forward, shares, planes = trained.encoder.forward, [], []
    monkeypatch.setattr(trained.encoder, "forward", lambda x, share: shares.append(share) or forward(x, share))
    monkeypatch.setattr(F, "dropout2d", lambda x, share: planes.append((x.shape[-1], share)) or x)
    trained(l)
    assert shares == [0.2] and planes == [(2, 0.1), (4, 0.1)]  # at 1/32 and 1/16 of the size


def test_pretrained_unet_evens_out_and_lifts_its_guess_in_eval_mode():
    torch.manual_seed(0)
    generator = PretrainedUNet("lite0", (16, 16, 8, 8), lift=0.2).eval()
    l = torch.rand(2, 1, 40, 56) * 2 - 1
    padded = F.pad(l, (0, 8, 0, 24), mode="replicate")
    with torch.inference_mode():
        whole, looks = generator.guess(padded)
        assert torch.equal(generator.guess(l)[0], whole[..., :40, :56])
        ab, features = generator.predict(l)
        assert torch.equal(ab, lift_pale(even_out(whole, padded, looks)[..., :40, :56], 0.2))
        assert torch.equal(features, looks) and torch.equal(generator(l), ab)
        hints = torch.zeros(2, 3, 40, 56)
        hints[:, :, 20, 30] = torch.tensor([0.3, -0.2, 1.0])
        assert torch.equal(generator(l, hints), follow_hints(ab, hints, l, features))


def test_discriminator_judges_a_shrunken_image():
    discriminator = PatchDiscriminator(width=8).eval()
    shrunken = PatchDiscriminator(width=8, shrink=2).eval()
    shrunken.load_state_dict(discriminator.state_dict())
    l, ab = torch.rand(1, 1, 64, 64), torch.rand(1, 2, 64, 64)
    large = (x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3) for x in (l, ab))
    assert torch.allclose(shrunken(*large), discriminator(l, ab), atol=1e-6)


def test_pretrained_unet_lifts_what_it_predicts():
    torch.manual_seed(0)
    plain, lifting = PretrainedUNet("lite0", (16, 16, 8, 8)).eval(), PretrainedUNet("lite0", (16, 16, 8, 8), lift=0.2)
    lifting.eval().load_state_dict(plain.state_dict())
    l = torch.rand(2, 1, 40, 56) * 2 - 1
    with torch.inference_mode():
        assert torch.equal(lifting(l), lift_pale(plain(l), 0.2))
        assert torch.equal(lifting.train()(l), plain.train()(l))
    with pytest.raises(ValueError, match="lift"):
        PretrainedUNet("lite0", lift=1.0)
