"""The three stages on real photographs, tiny: they run, hand over, stop and go on exactly."""

import importlib
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train_lab
import train_lab_finetune
import train_vgg
from config import FinetuneConfig, TrainConfig, VGGConfig
from dataset_lab_cache import open_source
from models_lab import PatchDiscriminator, PretrainedUNet
from utils.data.loaders import open_training_data
from utils.run import UserError, run_script
from utils.training import checkpoints, stage
from utils.training.logs import Averages
from utils.training.losses import gan_loss
from utils.training.optimization import update_ema

ROOT = Path(__file__).parent.parent
TINY = {"img_size": 32, "load_size": 36, "batch_size": 4, "val_fraction": 0.2, "num_workers": 0, "device": "cpu"}
TINY_NETWORKS = {"encoder": "none", "gen_width": 8, "gen_depth": 3, "disc_width": 8}


def tiny_config(folder: Path, photos: Path, **changes: object) -> TrainConfig:
    paths = {"images_dir": photos / "train2017", "cache_dir": folder / "cache", "output_dir": folder / "out"}
    return TrainConfig(**{**TINY, **TINY_NETWORKS, **paths, "epochs": 2, "last_every": 3, **changes})


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["weights"]


def tensorboard(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder / "tensorboard")).Reload()


def assert_same_weights(first: Path, second: Path) -> None:
    a, b = weights(first), weights(second)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def log_lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def stage_one(tmp_path_factory: pytest.TempPathFactory, sample_coco: Path) -> tuple[TrainConfig, Path]:
    """An uninterrupted run of stage 1: its configuration and its last generator."""
    cfg = tiny_config(tmp_path_factory.mktemp("stage_one"), sample_coco)
    return cfg, train_lab.train(cfg)


def test_stage_one_writes_what_the_next_stage_and_the_user_need(stage_one):
    cfg, newest = stage_one
    assert newest == cfg.output_dir / "G_epoch_002.pt"
    names = {str(path.relative_to(cfg.output_dir)) for path in cfg.output_dir.rglob("*.*") if path.is_file()}
    names = {name.replace(os.sep, "/") for name in names if not name.startswith("tensorboard")}
    assert names == {
        "G_epoch_002.pt",
        "D_epoch_002.pt",
        "best.pt",
        "last.pt",
        "log.jsonl",
        "losses.png",
        "samples/epoch_002.png",
    }
    first, second = log_lines(cfg.output_dir)
    assert (first["epoch"], second["epoch"]) == (1, 2) and second["step"] == 2 * first["step"]
    expected = {"loss_d", "loss_g", "loss_g_gan", "loss_g_l1", "grad_norm_g", "grad_norm_d"}
    assert expected | {"val_psnr", "val_l1_ab", "val_colorfulness", "val_colorfulness_truth"} <= set(second)
    assert second["loss_g_l1"] < first["loss_g_l1"]
    board = tensorboard(cfg.output_dir)
    assert [event.value for event in board.Scalars("val_psnr")] == [
        pytest.approx(line["val_psnr"]) for line in (first, second)
    ]
    assert b"| lambda_l1 | 150.0 |" in board.Tensors("config/text_summary")[0].tensor_proto.string_val[0]
    (grid,) = board.Images("samples")
    shown = cv2.imdecode(np.frombuffer(grid.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(shown, cv2.imread(str(cfg.output_dir / "samples" / "epoch_002.png")))


def test_stages_two_and_three_start_from_the_one_before(stage_one, sample_coco, tmp_path, capsys):
    _, newest = stage_one
    shared = {**TINY, "images_dir": sample_coco / "train2017", "cache_dir": tmp_path / "cache", "max_steps": 2}
    shared |= {"output_dir": tmp_path / "ft", "filter_report": tmp_path / "none"}
    finetuned = train_lab_finetune.train(FinetuneConfig(**shared, init_checkpoint=newest))
    assert finetuned.name == "G_finetune_epoch_01.pt"
    printed = capsys.readouterr().out
    assert "overrides lambda_l1: 150.0 -> 250.0" in printed and "overrides learning_rate: 0.0005 -> 0.0002" in printed
    for letter in "GD":  # two small steps away from where stage 1 ended, not from random weights
        before, after = (weights(path.with_name(f"{letter}{path.name[1:]}")) for path in (newest, finetuned))
        kernels = [name for name in before if before[name].dim() == 4]
        assert 0 < max((after[name] - before[name]).abs().max() for name in kernels) < 1e-3

    final = train_vgg.train(VGGConfig(**shared, init_checkpoint=finetuned, vgg_weights="stand-in"))
    assert final.name == "G_ft_fromE1_vgg_epoch_01.pt" and final.parent == finetuned.parent
    info = torch.load(final, weights_only=True)
    assert (info["stage"], info["vgg"]) == ("finetune_vgg", "stand-in")
    assert log_lines(tmp_path / "ft" / "vgg")[-1]["loss_g_vgg"] > 0
    boards = [tensorboard(folder) for folder in (newest.parent, tmp_path / "ft", tmp_path / "ft" / "vgg")]
    scalars = [set(board.Tags()["scalars"]) for board in boards]
    assert scalars[0] == scalars[1] == scalars[2] - {"loss_g_vgg"}  # so that they lie over each other
    assert all(
        board.Tags()["images"] == ["samples"] and board.Tags()["tensors"] == ["config/text_summary"]
        for board in boards
    )
    assert (tmp_path / "ft" / "last.pt").exists() and (tmp_path / "ft" / "vgg" / "last.pt").exists()


def test_stage_two_learns_half_from_teachers(sample_coco, tmp_path):
    generator = PretrainedUNet("lite0", (16, 16, 8, 8))
    torch.nn.init.zeros_(generator.head.conv.weight)  # so that it and its teachers call everything gray
    torch.nn.init.zeros_(generator.head.conv.bias)
    cfg = TrainConfig(**TINY, images_dir=sample_coco / "train2017")
    info = checkpoints.describe("subset", 1, 1, cfg, {})
    for letter, network in (("G", generator), ("D", PatchDiscriminator(8))):
        checkpoints.save_network(tmp_path / f"{letter}_epoch_001.pt", network, info)
    start = tmp_path / "G_epoch_001.pt"
    shared = {**TINY, "images_dir": sample_coco / "train2017", "cache_dir": tmp_path / "cache", "max_steps": 1}
    shared |= {"filter_report": tmp_path / "none", "init_checkpoint": start}
    losses = {}
    for teachers in ((), (start, start)):
        output = tmp_path / f"ft{len(teachers)}"
        finetuned = train_lab_finetune.train(FinetuneConfig(**shared, output_dir=output, teachers=teachers))
        losses[teachers] = log_lines(output)[-1]["loss_g_l1"]
    assert losses[start, start] == pytest.approx(losses[()] / 2) and losses[()] > 0
    assert torch.load(finetuned, weights_only=True)["config"]["teachers"] == [str(start)] * 2
    with pytest.raises(UserError, match=r"lies where this run writes; give another --output-dir"):
        train_lab_finetune.train(
            FinetuneConfig(**shared, output_dir=finetuned.parent, teachers=(finetuned,), resume=False)
        )
    assert finetuned.exists()


def test_running_again_goes_on_or_is_done(stage_one, capsys):
    cfg, newest = stage_one
    before = newest.stat().st_mtime_ns
    assert train_lab.train(cfg) == newest
    assert newest.stat().st_mtime_ns == before
    assert "stage subset is done" in capsys.readouterr().out


def test_another_configuration_is_refused_and_no_resume_starts_anew(stage_one, sample_coco, tmp_path):
    cfg = tiny_config(tmp_path, sample_coco, epochs=1)
    train_lab.train(cfg)
    with pytest.raises(UserError, match=r"batch_size 4 -> 5.*--no-resume"):
        train_lab.train(replace(cfg, batch_size=5))
    train_lab.train(replace(cfg, batch_size=5, resume=False))
    assert log_lines(cfg.output_dir)[0]["step"] != log_lines(stage_one[0].output_dir)[0]["step"]


def test_run_of_before_a_setting_existed_goes_on(sample_coco, tmp_path):
    cfg = tiny_config(tmp_path, sample_coco, epochs=1, max_steps=1, dropout=0.0)
    newest = train_lab.train(cfg)
    last = torch.load(cfg.output_dir / "last.pt", weights_only=True)
    del last["config"]["dropout"]
    torch.save(last, cfg.output_dir / "last.pt")
    assert train_lab.train(cfg) == newest
    with pytest.raises(UserError, match=r"dropout 0\.0 -> 0\.1"):
        train_lab.train(replace(cfg, dropout=0.1))


@pytest.mark.parametrize("resume", [True, False])
def test_stage_does_not_start_from_a_network_that_it_would_replace(stage_one, resume, tmp_path):
    cfg, newest = stage_one
    for letter in "GD":
        (tmp_path / f"{letter}_link.pt").symlink_to(newest.with_name(letter + newest.name[1:]))
    inherited = {name: getattr(TrainConfig, name) for name in TINY_NETWORKS}
    with pytest.raises(UserError, match=f"{re.escape(str(newest))}: has a name that this run saves under"):
        train_lab.train(replace(cfg, resume=resume, init_checkpoint=tmp_path / "G_link.pt", **inherited))
    assert newest.exists() and (cfg.output_dir / "last.pt").exists()


def test_resume_refuses_a_changed_split_and_a_changed_origin(stage_one, sample_coco, tmp_path):
    _, newest = stage_one
    report = tmp_path / "filter_report.json"
    shared = {**TINY, "images_dir": sample_coco / "train2017", "cache_dir": tmp_path / "cache", "max_steps": 1}
    origin = tmp_path / newest.name
    for letter in "GD":
        name = letter + newest.name[1:]
        shutil.copy(newest.with_name(name), tmp_path / name)
    cfg = FinetuneConfig(**shared, output_dir=tmp_path / "ft", init_checkpoint=origin, filter_report=report)
    train_lab_finetune.train(cfg)
    report.write_text(json.dumps({"rejected": {"000000000001.jpg": ["gray"]}}))
    with pytest.raises(UserError, match="have changed since"):
        train_lab_finetune.train(cfg)
    report.unlink()
    train_lab_finetune.train(cfg)
    entries = torch.load(origin, weights_only=True)
    torch.save({**entries, "step": entries["step"] + 1}, origin)
    with pytest.raises(UserError, match="have changed since"):
        train_lab_finetune.train(cfg)


def test_hand_off_refuses_to_hold_out_what_was_trained_on(stage_one, sample_coco, tmp_path):
    shared = {**TINY, "images_dir": sample_coco / "train2017", "cache_dir": tmp_path / "cache", "val_fraction": 0.3}
    cfg = FinetuneConfig(**shared, output_dir=tmp_path / "ft", init_checkpoint=stage_one[1])
    with pytest.raises(UserError, match=r"--val-fraction 0.3: .* trained on all but 0.2"):
        train_lab_finetune.train(cfg)


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 0},
        {"max_steps": 0},
        {"last_every": 0},
        {"num_workers": -1},
        {"seed": -1},
        {"learning_rate": -1.0},
        {"learning_rate": float("inf")},
        {"lambda_l1": float("nan")},
        {"img_size": 16},
        {"load_size": 31},
        {"scale_jitter": 1.5},
        {"dropout": 0.5},
        {"gen_width": 3},
        {"gen_depth": 1},
        {"frozen_share": 1.2},
        {"device": "gpu"},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_numbers_out_of_range_are_named(sample_coco, tmp_path, wrong):
    with pytest.raises(UserError, match=str(next(iter(wrong.values())))):
        train_lab.train(tiny_config(tmp_path, sample_coco, **wrong))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"encoder": "lite2", "gen_width": 32}, "--gen-width: only with --encoder none"),
        ({"encoder": "none", "frozen_share": 0.1}, "--frozen-share: with --encoder none no encoder is pretrained"),
        ({"encoder": "none", "init_checkpoint": Path("G.pt")}, "--encoder: the networks are those of --init-check"),
    ],
)
def test_flags_of_other_networks_are_refused(flags, message):
    with pytest.raises(UserError, match=message):
        train_lab.train(TrainConfig(**flags))


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL on Windows")
@pytest.mark.parametrize(("stop", "steps"), [("SIGKILL", (4, 11)), ("SIGTERM", (7,)), ("SIGINT", (5,))])
def test_stopped_and_resumed_run_ends_with_the_same_weights(stage_one, tmp_path, stop, steps):
    """Bit for bit: both networks, the best generator, the log."""
    cfg, newest = stage_one
    command = [sys.executable, "train_lab.py", "--images-dir", str(cfg.images_dir), "--output-dir", str(tmp_path)]
    command += ["--cache-dir", str(cfg.cache_dir), "--epochs", "2", "--last-every", "3"]
    workers = {"num_workers": int(stop == "SIGTERM")}  # the signal reaches them as well, as Ctrl-C does
    for name, value in {**TINY, **TINY_NETWORKS, **workers}.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    for wanted in steps:  # within the first and the second epoch of 8 steps each
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        started = [*command, *(["--no-resume"] if stop == "SIGINT" else [])]  # which the next command must not have
        process = subprocess.Popen(started, cwd=ROOT, env=environment, start_new_session=True, **output)
        while process.poll() is None and steps_saved(tmp_path) < wanted - 1:
            time.sleep(0.01)
        os.killpg(process.pid, getattr(signal, stop))
        printed = process.communicate(timeout=60)[0].decode()
        if stop != "SIGKILL" and "is done" not in printed:
            assert process.returncode == 130, printed
            assert f"to continue: {shlex.join(['python', *command[1:]])}\n" in printed, printed
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    for name in (newest.name, newest.name.replace("G_", "D_"), "best.pt"):
        assert_same_weights(cfg.output_dir / name, tmp_path / name)
    assert log_lines(cfg.output_dir) == log_lines(tmp_path)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the worker in Linux's /proc")
def test_a_killed_worker_ends_the_run_in_one_line(stage_one, tmp_path):
    cfg, _ = stage_one
    command = [sys.executable, "train_lab.py", "--images-dir", str(cfg.images_dir), "--output-dir", str(tmp_path)]
    command += ["--cache-dir", str(cfg.cache_dir), "--epochs", "1000", "--last-every", "3"]
    for name, value in {**TINY, **TINY_NETWORKS, "num_workers": 1}.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while process.poll() is None and not steps_saved(tmp_path):
        time.sleep(0.05)
    for worker in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        os.kill(int(worker), signal.SIGKILL)
    printed = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 2 and "Traceback" not in printed, printed
    assert "error: a data loading process was killed" in printed


@pytest.mark.parametrize(
    ("script", "config_class", "more"),
    [(train_lab_finetune, FinetuneConfig, {"epochs": 2}), (train_vgg, VGGConfig, {"vgg_weights": "stand-in"})],
    ids=["finetune", "vgg"],
)
def test_later_stage_cut_off_and_resumed_ends_with_the_same_weights(
    stage_one, sample_coco, tmp_path, monkeypatch, script, config_class, more
):
    paths = {
        "images_dir": sample_coco / "train2017",
        "cache_dir": tmp_path / "cache",
        "filter_report": tmp_path / "no",
    }
    shared = {**TINY, **paths, **more, "last_every": 3, "init_checkpoint": stage_one[1]}
    expected = script.train(config_class(**shared, output_dir=tmp_path / "whole"))

    def cut_off(ema, network, step, decay):
        if step == 5:
            raise ZeroDivisionError
        update_ema(ema, network, step, decay)

    monkeypatch.setattr(stage, "update_ema", cut_off)
    with pytest.raises(ZeroDivisionError):
        script.train(config_class(**shared, output_dir=tmp_path / "cut"))
    monkeypatch.undo()
    found = script.train(config_class(**shared, output_dir=tmp_path / "cut"))
    for letter in "GD":
        assert_same_weights(*(path.with_name(f"{letter}{path.name[1:]}") for path in (expected, found)))


def steps_saved(folder: Path) -> int:
    path = folder / "last.pt"
    return torch.load(path, weights_only=True)["position"]["step"] if path.exists() else 0


def test_loss_that_is_not_finite_stops_before_a_checkpoint(sample_coco, tmp_path, monkeypatch):
    monkeypatch.setattr(train_lab, "gan_loss", lambda scores, is_real: scores.sum() * float("nan"))
    cfg = tiny_config(tmp_path, sample_coco)
    batch = open_training_data(cfg, open_source(cfg)).names_at(0)
    with pytest.raises(UserError) as error:
        train_lab.train(cfg)
    assert str(error.value).startswith("loss_d, ") and len(batch) == cfg.batch_size
    assert f"not finite at step 1 ({', '.join(batch)}), and nothing was saved since" in str(error.value)
    assert not list((tmp_path / "out").rglob("*.pt"))


@pytest.mark.parametrize("bad_step", [0, 4, 7])
def test_number_that_is_not_finite_leaves_the_last_checkpoint_before_it(sample_coco, tmp_path, monkeypatch, bad_step):
    cfg = tiny_config(tmp_path, sample_coco, last_every=2)
    data = open_training_data(cfg, open_source(cfg))
    step_losses = itertools.count()

    def loss(scores, is_real):  # three a step
        return gan_loss(scores, is_real) * (float("inf") if next(step_losses) // 3 == bad_step else 1)

    monkeypatch.setattr(train_lab, "gan_loss", loss)
    with pytest.raises(UserError) as error:
        train_lab.train(cfg)
    assert f"not finite at step {bad_step + 1} ({', '.join(data.names_at(bad_step))})" in str(error.value)
    assert steps_saved(tmp_path / "out") <= bad_step
    assert bad_step < 2 or steps_saved(tmp_path / "out") >= bad_step - 1


def test_discriminator_sees_each_step_three_times_and_the_generator_runs_once(sample_coco, tmp_path, monkeypatch):
    calls = {"G": 0, "D": 0}

    class Generator(train_lab.GeneratorUNet):
        def forward(self, l, hints=None):
            calls["G"] += self.training
            return super().forward(l, hints)

    class Discriminator(train_lab.PatchDiscriminator):
        def forward(self, l, ab):
            calls["D"] += 1
            return super().forward(l, ab)

    monkeypatch.setattr(train_lab, "GeneratorUNet", Generator)
    monkeypatch.setattr(train_lab, "PatchDiscriminator", Discriminator)
    train_lab.train(tiny_config(tmp_path, sample_coco, max_steps=5))
    assert calls == {"G": 5, "D": 15}


def test_pretrained_encoder_is_frozen_then_trained_and_carried_along(sample_coco, tmp_path, monkeypatch):
    torch.manual_seed(0)
    torch.save(timm.create_model("tf_efficientnet_lite0").state_dict(), tmp_path / "lite0.pth")
    changes = {"encoder": "lite0", "encoder_weights": str(tmp_path / "lite0.pth"), "epochs": 1, "max_steps": 6}
    changes |= {name: getattr(TrainConfig, name) for name in ("gen_width", "gen_depth")}
    with pytest.raises(UserError, match="--img-size 32: this discriminator needs at least 64"):
        train_lab.train(tiny_config(tmp_path, sample_coco, output_dir=tmp_path / "small", **changes))
    changes |= {"img_size": 64, "load_size": 72}
    whole = train_lab.train(tiny_config(tmp_path, sample_coco, output_dir=tmp_path / "whole", **changes))
    frozen = train_lab.train(
        tiny_config(tmp_path, sample_coco, output_dir=tmp_path / "frozen", frozen_share=1.0, **changes)
    )
    deep, head = "blocks.6.0.conv_pw.weight", "head.conv.weight"
    pretrained = torch.load(tmp_path / "lite0.pth", weights_only=True)
    stem = pretrained["conv_stem.weight"].sum(dim=1, keepdim=True)
    for path in (frozen, whole):
        assert torch.equal(weights(path)["encoder.conv_stem.weight"], stem)
        assert torch.equal(weights(path)[f"encoder.{deep}"], pretrained[deep]) == (path == frozen)
    assert not weights(whole)["encoder.bn1.running_mean"].any()  # its statistics stay

    def cut_off(ema, network, step, decay):
        if step == 4:  # the encoder is trained from step 3 on
            raise ZeroDivisionError
        update_ema(ema, network, step, decay)

    cut = tiny_config(tmp_path, sample_coco, output_dir=tmp_path / "cut", **changes)
    monkeypatch.setattr(stage, "update_ema", cut_off)
    with pytest.raises(ZeroDivisionError):
        train_lab.train(cut)
    monkeypatch.undo()
    assert steps_saved(tmp_path / "cut") == 3
    assert_same_weights(whole, train_lab.train(cut))

    (tmp_path / "lite0.pth").unlink()  # the later stages and coloring need no other file
    shared = {**TINY, "images_dir": sample_coco / "train2017", "cache_dir": tmp_path / "cache", "max_steps": 1}
    shared |= {"img_size": 64, "load_size": 72}
    cfg = FinetuneConfig(**shared, output_dir=tmp_path / "ft", filter_report=tmp_path / "no", init_checkpoint=whole)
    finetuned = train_lab_finetune.train(cfg)
    assert weights(finetuned).keys() == weights(whole).keys()
    assert 0 < (weights(finetuned)[head] - weights(whole)[head]).abs().max() < 1e-3


def test_stage_two_says_what_to_run_first(sample_coco, tmp_path, capsys):
    arguments = ["--images-dir", str(sample_coco / "train2017"), "--cache-dir", str(tmp_path), "--device", "cpu"]
    arguments += ["--init-checkpoint", str(tmp_path / "G_epoch_030.pt"), "--val-fraction", "0.2"]
    assert train_lab_finetune.main([*arguments, "--output-dir", str(tmp_path / "ft")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "run python train_lab.py first" in error and error.count("\n") == 1


class Vanished(torch.utils.data.Dataset):
    """A file that was there when the run began."""

    def __init__(self, error: Exception):
        self.error = error

    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise self.error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("photos: none of its 7 images can be read"), "photos: none of its 7 images can be read"),
        (FileNotFoundError(2, "No such file", "shard.bin"), "FileNotFoundError: [Errno 2] No such file: 'shard.bin'"),
    ],
    ids=["user", "system"],
)
def test_error_of_a_worker_is_one_line(capsys, error, line):
    loader = torch.utils.data.DataLoader(Vanished(error), num_workers=1)
    assert run_script(TrainConfig, lambda cfg: list(loader), []) == 2
    assert capsys.readouterr().err == f"error: {line}\n"


def test_averages_are_means_over_steps_and_name_what_is_not_finite():
    averages = Averages(torch.device("cpu"), lambda step: [f"image{step}.jpg"])
    averages.add(loss_a=torch.tensor(1.0), grad_norm=torch.tensor(2.0))
    averages.add(loss_a=torch.tensor(4.0), grad_norm=torch.tensor(1.0))
    assert averages.means(2)["loss_a"] == 2.5
    restored = Averages(torch.device("cpu"), lambda step: [f"image{step}.jpg"])
    restored.load_state_dict(averages.state_dict())
    restored.add(loss_a=torch.tensor(float("nan")), grad_norm=torch.tensor(1.0))
    restored.add(loss_a=torch.tensor(1.0), grad_norm=torch.tensor(1.0))
    with pytest.raises(UserError, match=r"loss_a not finite at step 13 \(image12.jpg\)"):
        restored.means(14)


@pytest.mark.parametrize(
    "path",
    [*sorted(ROOT.glob("*.py")), *sorted((ROOT / "utils").rglob("*.py"))],
    ids=lambda p: p.name,
)
def test_import_prints_nothing(path, capfd):
    if path.name in ("demo_lab.py", "visits.py", "web.py", "web_colors.py", "web_hints.py"):
        pytest.importorskip("gradio", reason="the page needs requirements-demo.txt")
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    importlib.import_module(name.removesuffix(".__init__"))
    assert capfd.readouterr() == ("", "")
