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
INFO = checkpoints.describe("subset", 1, 1, TrainConfig(), {})


def test_mean_color_averages_what_the_networks_predict() -> None:
    torch.manual_seed(0)
    teachers = [PretrainedUNet("lite0", (16, 16, 8, 8)).eval() for _ in range(2)]
    l = torch.rand(2, 1, 40, 40) * 2 - 1  # not a multiple of 32
    mean = mean_color(teachers, l)
    with torch.no_grad():
        padded = torch.nn.functional.pad(l, (0, 24, 0, 24), mode="replicate")
        first, second = (teacher.guess(padded)[0][..., :40, :40] for teacher in teachers)
    assert torch.allclose(mean, (first + second) / 2, atol=1e-6) and not mean.requires_grad
    assert not torch.allclose(first, second, atol=1e-4)


def test_load_teachers_only_looks_on(tmp_path: Path) -> None:
    path = tmp_path / "G_one.pt"
    checkpoints.save_network(path, PretrainedUNet("lite0", (16, 16, 8, 8)), INFO)
    (teacher,), digest = load_teachers([path], CPU)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not teacher.training and not any(weight.requires_grad for weight in teacher.parameters())


def test_load_teachers_names_a_file_that_is_missing_or_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"G_gone\.pt: no such checkpoint; give --teachers"):
        load_teachers([tmp_path / "G_gone.pt"], CPU)
    checkpoints.save_network(tmp_path / "G_scratch.pt", GeneratorUNet(4, 3), INFO)
    with pytest.raises(UserError, match=r"G_scratch\.pt: no pretrained encoder; give --teachers"):
        load_teachers([tmp_path / "G_scratch.pt"], CPU)
