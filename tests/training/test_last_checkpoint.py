import math
from dataclasses import replace

import pytest
import torch

from config import FinetuneConfig, TrainConfig
from models_lab import GeneratorUNet
from utils.run import UserError
from utils.training.last_checkpoint import Position, resume, save_last, start_anew


def test_save_last_refuses_weights_that_are_not_finite(tmp_path):
    generator = GeneratorUNet(16, 3)
    generator.head.conv.weight.data[0] = math.inf
    with pytest.raises(UserError, match="generator: weights not finite after step 7"):
        save_last(tmp_path, "subset", TrainConfig(), "", Position(step=7), {"generator": generator})
    assert not list(tmp_path.iterdir())


def test_resume_restores_parts_position_and_random_state(tmp_path):
    network, cfg = GeneratorUNet(16, 3), TrainConfig(output_dir=tmp_path)
    position = Position(epoch=2, batch=3, step=40, best_psnr=21.5)
    torch.manual_seed(5)
    save_last(tmp_path, "subset", cfg, "data", position, {"generator": network})
    expected = torch.rand(3)
    other = GeneratorUNet(16, 3)
    changed = replace(cfg, num_workers=7, device="cuda:1", last_every=3)  # none of these changes the result
    assert resume(tmp_path, "subset", changed, "data", {"generator": other}) == position
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))


def test_resume_without_a_file_starts_at_the_beginning(tmp_path):
    assert resume(tmp_path, "subset", TrainConfig(), "data", {}) == Position()


def test_resume_refuses_another_configuration_or_other_images(tmp_path):
    cfg = TrainConfig(output_dir=tmp_path)
    save_last(tmp_path, "subset", cfg, "data", Position(step=1), {})
    with pytest.raises(UserError, match=r"lambda_l1 150.0 -> 50.0.*--no-resume"):
        resume(tmp_path, "subset", replace(cfg, lambda_l1=50.0), "data", {})
    with pytest.raises(UserError, match="images or the weights it started from have changed"):
        resume(tmp_path, "subset", cfg, "other data", {})
    with pytest.raises(UserError, match=r"of stage subset, and this is finetune; choose another --output-dir$"):
        resume(tmp_path, "finetune", FinetuneConfig(output_dir=tmp_path), "data", {})
    with pytest.raises(UserError, match="damaged"):
        resume(tmp_path, "subset", cfg, "data", {"generator": GeneratorUNet(16, 3)})


def test_start_anew_deletes_what_the_run_wrote_and_nothing_else(tmp_path):
    own = ["last.pt", "best.pt", "log.jsonl", "losses.png", "G_epoch_003.pt", "D_epoch_003.pt", "G_epoch_1000.pt"]
    kept = ["G_epoch_003_half.pt", "G_finetune_epoch_04.pt", "G_ft_fromE4_vgg_epoch_01.pt", "notes.txt"]
    for name in [*own, *kept]:
        (tmp_path / name).touch()
    start_anew(tmp_path, "subset", tmp_path, "epoch_{:03d}")
    assert {path.name for path in tmp_path.iterdir()} == set(kept)


def test_start_anew_deletes_nothing_of_another_stage(tmp_path):
    save_last(tmp_path, "subset", TrainConfig(output_dir=tmp_path), "", Position(step=1), {})
    for name in ("best.pt", "log.jsonl", "G_finetune_epoch_01.pt"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match="of stage subset, and this is finetune; choose another --output-dir"):
        start_anew(tmp_path, "finetune", tmp_path, "finetune_epoch_{:02d}")
    assert len(list(tmp_path.iterdir())) == 4


def test_start_anew_of_stage_3_deletes_the_run_from_another_epoch(tmp_path):
    for name in ("last.pt", "G_ft_fromE4_vgg_epoch_01.pt", "D_ft_fromE4_vgg_epoch_01.pt", "G_finetune_epoch_04.pt"):
        (tmp_path / name).touch()
    start_anew(tmp_path, "finetune_vgg", tmp_path, "ft_fromE2_vgg_epoch_{:02d}")
    assert [path.name for path in tmp_path.iterdir()] == ["G_finetune_epoch_04.pt"]
