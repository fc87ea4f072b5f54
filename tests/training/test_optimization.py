import copy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.amp import GradScaler

from models_lab import GeneratorUNet, PretrainedUNet
from utils.training.optimization import backward_and_step, learning_rate_at, make_adam, update_ema


def test_make_adam_lets_a_pretrained_encoder_learn_slowly():
    network = PretrainedUNet("lite0", (16, 16, 8, 8))
    decoder, encoder = make_adam(network, 1e-3).param_groups
    assert (decoder["factor"], encoder["factor"]) == (1.0, 0.2)
    assert len(encoder["params"]) == len(list(network.encoder.parameters())) > 0
    assert len(decoder["params"]) == len(list(network.parameters())) - len(encoder["params"])
    assert [group["factor"] for group in make_adam(GeneratorUNet(4, 2), 1e-3).param_groups] == [1.0]


def test_learning_rate_rises_stays_and_falls():
    rates = [learning_rate_at(step, 1000, 2.0, warmup_steps=9) for step in range(1000)]
    assert rates[0] == pytest.approx(0.2) and rates[8] == pytest.approx(1.8)
    assert rates[9] == rates[500] == 2.0
    assert rates[750] == pytest.approx(1.0)
    assert rates[999] == pytest.approx(0.004)


def test_learning_rate_warms_up_over_a_tenth_of_a_short_run():
    assert learning_rate_at(1, 20, 1.0, warmup_steps=500) == pytest.approx(2 / 3)
    assert learning_rate_at(2, 20, 1.0, warmup_steps=500) == 1.0
    assert learning_rate_at(0, 1, 1.0, warmup_steps=500) == 1.0


def test_backward_and_step_gives_the_norm_and_moves_the_weights():
    layer = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0]]))
    optimizer = make_adam(layer, 0.1)
    norm = backward_and_step(layer(torch.tensor([3.0, 4.0])).sum(), optimizer, GradScaler("cpu", enabled=False))
    assert norm.item() == pytest.approx(5.0)  # the gradient is (3, 4)
    # Adam's first step is the learning rate times the sign of the gradient
    assert layer.weight.tolist()[0] == pytest.approx([0.9, 1.9], abs=1e-5)


def test_backward_and_step_leaves_out_a_step_that_overflows_in_float16():
    layer = nn.Linear(2, 1, bias=False)
    before = layer.weight.detach().clone()
    scaler, optimizer = GradScaler("cpu", init_scale=2.0**16), make_adam(layer, 0.1)
    norm = backward_and_step(layer(torch.full((2,), 1e38)).sum(), optimizer, scaler)
    scaler.update()
    assert norm.item() == 0 and torch.equal(layer.weight, before) and scaler.get_scale() == 2.0**15
    norm = backward_and_step(layer(torch.tensor([3.0, 4.0])).sum(), optimizer, scaler)
    assert norm.item() == pytest.approx(5.0) and not torch.equal(layer.weight, before)


def test_update_ema_moves_weights_and_buffers_by_the_decay():
    network = nn.BatchNorm1d(1)
    ema = copy.deepcopy(network).requires_grad_(False)
    with torch.no_grad():
        network.weight.fill_(3.0)
        network.running_mean.fill_(7.0)
    update_ema(ema, network, step=10**6, decay=0.75)
    assert ema.weight.item() == pytest.approx(0.75 * 1 + 0.25 * 3)
    assert ema.running_mean.item() == pytest.approx(0.25 * 7)
    assert ema.num_batches_tracked.item() == 0


def test_update_ema_is_short_at_the_start():
    network = nn.Linear(1, 1, bias=False)
    ema = copy.deepcopy(network).requires_grad_(False)
    before = ema.weight.item()
    with torch.no_grad():
        network.weight.add_(1.0)
    update_ema(ema, network, step=0, decay=0.999)
    assert ema.weight.item() == pytest.approx(before + 0.9, abs=1e-6)  # decay (1 + 0) / (10 + 0)


def _step_of_one_process(rank: int, folder: str) -> None:
    """Take a step on this process's half of four images."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    layer, images = _layer_and_images()
    loss = layer(images[rank::2]).square().mean()
    norm = backward_and_step(loss, make_adam(layer, 0.1), GradScaler("cpu", enabled=False))
    torch.save([layer.weight.detach(), norm], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def _layer_and_images() -> tuple[nn.Conv2d, torch.Tensor]:
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)
    return layer, torch.rand(4, 2, 5, 5)


def test_backward_and_step_of_two_processes_is_that_of_one_on_both_halves(tmp_path: Path):
    mp.spawn(_step_of_one_process, args=(str(tmp_path),), nprocs=2)
    layer, images = _layer_and_images()
    norm = backward_and_step(layer(images).square().mean(), make_adam(layer, 0.1), GradScaler("cpu", enabled=False))
    for rank in (0, 1):
        weight, rank_norm = torch.load(tmp_path / f"{rank}.pt")
        assert torch.allclose(weight, layer.weight, atol=1e-6)
        assert rank_norm.item() == pytest.approx(norm.item(), rel=1e-5)
