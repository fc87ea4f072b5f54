import hashlib
from pathlib import Path

import pytest
import torch

from config import TrainConfig
from models_lab import GeneratorUNet, PretrainedUNet
from utils.run import UserError
from utils.training import checkpoints
from utils.training.teachers import load_teachers, mean_color

CPU = torch.device("cpu")


def test_mean_color_averages_what_the_teachers_predict() -> None:
    torch.manual_seed(0)
    teachers = [GeneratorUNet(width=4, depth=3).eval() for _ in range(2)]
    l = torch.rand(2, 1, 32, 32) * 2 - 1
    mean = mean_color(teachers, l)
    with torch.no_grad():
        first, second = (teacher(l) for teacher in teachers)
    assert torch.allclose(mean, (first + second) / 2, atol=1e-6) and not mean.requires_grad
    assert not torch.allclose(first, second, atol=1e-4)


def test_load_teachers_do_not_lift_pale_pictures(tmp_path: Path) -> None:
    torch.manual_seed(0)
    info = checkpoints.describe("subset", 1, 1, TrainConfig(), {})
    path = tmp_path / "G_lifting.pt"
    network = PretrainedUNet("lite0", (16, 16, 8, 8), lift=0.3)
    checkpoints.save_network(path, network, info)
    (teacher,), digest = load_teachers([path], CPU)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    l = torch.rand(1, 1, 32, 32) * 2 - 1
    assert not any(weight.requires_grad for weight in teacher.parameters())
    with torch.no_grad():
        lifted = network.eval()(l)
        network.lift = 0.0
        assert torch.allclose(teacher(l), network(l), atol=1e-6) and not torch.allclose(lifted, network(l), atol=1e-4)


def test_load_teachers_names_a_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"G_gone\.pt: no such checkpoint; give --teachers"):
        load_teachers([tmp_path / "G_gone.pt"], CPU)
