import math
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

import config
from affinity_lab import lift_pale
from config import FinetuneConfig, TrainConfig
from models_lab import GeneratorUNet, PatchDiscriminator, PretrainedUNet
from utils.files import open_atomically
from utils.run import UserError
from utils.training import checkpoints, publish

CPU = torch.device("cpu")


def save_pair(folder: Path, name: str = "epoch_001") -> Path:
    info = checkpoints.describe("subset", 1, 10, TrainConfig(), {"psnr": 20.0})
    checkpoints.save_network(folder / f"D_{name}.pt", PatchDiscriminator(8), info)
    checkpoints.save_network(folder / f"G_{name}.pt", GeneratorUNet(16, 3), info)
    return folder / f"G_{name}.pt"


def test_generator_file_is_plain_and_complete(tmp_path):
    path = save_pair(tmp_path)
    entries = torch.load(path, weights_only=True)
    assert entries["architecture"] == {"width": 16, "depth": 3, "norm": "batch", "upsample": "pixelshuffle"}
    assert (entries["stage"], entries["epoch"], entries["step"]) == ("subset", 1, 10)
    assert entries["config"]["learning_rate"] == 5e-4 and entries["metrics"] == {"psnr": 20.0}
    assert entries["commit"] and all(isinstance(value, torch.Tensor) for value in entries["weights"].values())


def test_load_generator_gives_the_same_network_in_eval_mode(tmp_path):
    torch.manual_seed(0)
    generator = GeneratorUNet(16, 3).eval()
    info = checkpoints.describe("subset", 0, 0, TrainConfig(), {})
    checkpoints.save_network(tmp_path / "G_x.pt", generator, info)
    loaded, found = checkpoints.load_generator(tmp_path / "G_x.pt", CPU)
    l = torch.rand(1, 1, 24, 24)
    assert not loaded.training and found["stage"] == "subset" and found["vgg"] is None
    assert torch.allclose(loaded(l), generator(l), atol=1e-6)


def test_working_size_is_the_crop_of_the_configuration(tmp_path):
    _, info = checkpoints.load_generator(save_pair(tmp_path), CPU)
    assert checkpoints.working_size(info) == TrainConfig().img_size == 256


def test_publish_halves_the_file_and_keeps_the_network(tmp_path):
    source, target = save_pair(tmp_path), tmp_path / "G_half.pt"
    assert publish.main([str(source), str(target)]) == 0
    assert target.stat().st_size < 0.6 * source.stat().st_size
    (whole, info), (half, half_info) = (checkpoints.load_generator(path, CPU) for path in (source, target))
    assert half_info == {**info, "saturation": 1.0}
    assert all(parameter.dtype == torch.float32 for parameter in half.parameters())
    l = torch.rand(1, 1, 24, 24) * 2 - 1
    assert torch.allclose(half(l), whole(l), atol=1e-3)


def test_publish_keeps_its_source(tmp_path):
    source = save_pair(tmp_path)
    before = source.read_bytes()
    assert publish.main([str(source), str(tmp_path / ".." / tmp_path.name / source.name)]) == 2
    assert source.read_bytes() == before


def test_publish_multiplies_the_colors(tmp_path):
    source, target = save_pair(tmp_path), tmp_path / "G_half.pt"
    assert publish.main([str(source), str(target), "--saturation", "1.5"]) == 0
    (whole, _), (half, info) = (checkpoints.load_generator(path, CPU) for path in (source, target))
    l = torch.rand(1, 1, 24, 24) * 2 - 1
    torch.testing.assert_close(half(l).atanh(), 1.5 * whole(l).atanh(), atol=1e-3, rtol=1e-2)
    assert info["saturation"] == 1.5
    again = tmp_path / "G_again.pt"
    assert publish.main([str(target), str(again), "--saturation", "2"]) == 0
    assert checkpoints.load_generator(again, CPU)[1]["saturation"] == 3
    assert publish.main([str(source), str(target), "--saturation", "0"]) == 2


def test_publish_chooses_the_size_at_which_a_generator_colors(tmp_path):
    source, target = save_pair(tmp_path), tmp_path / "G_half.pt"
    for arguments, size in (([], 256), (["--working-size", "192"], 192)):
        assert publish.main([str(source), str(target), *arguments]) == 0
        assert checkpoints.working_size(checkpoints.load_generator(target, CPU)[1]) == size
    assert publish.main([str(source), str(target), "--working-size", "0"]) == 2


def test_publish_lifts_pale_pictures(tmp_path):
    source, target = tmp_path / "G_x.pt", tmp_path / "G_half.pt"
    network = PretrainedUNet("lite0", (16, 16, 8, 8)).eval()
    checkpoints.save_network(source, network, checkpoints.describe("subset", 1, 1, TrainConfig(), {}))
    assert publish.main([str(source), str(target), "--lift", "0.2"]) == 0
    lifting, _ = checkpoints.load_generator(target, CPU)
    l = torch.rand(1, 1, 32, 32) * 2 - 1
    torch.testing.assert_close(lifting(l), lift_pale(network(l), 0.2), atol=1e-3, rtol=1e-2)
    assert publish.main([str(source), str(target), "--lift", "1"]) == 2
    assert publish.main([str(save_pair(tmp_path)), str(target), "--lift", "0.2"]) == 2


def test_publish_names_no_folder_of_this_machine(tmp_path):
    teachers = tmp_path / "G_one.pt", Path("few/G_two.pt")
    cfg = FinetuneConfig(images_dir=tmp_path / "photos", cache_dir=Path("caches/lab"), teachers=teachers)
    info = checkpoints.describe("subset", 0, 0, cfg, {})
    checkpoints.save_network(tmp_path / "G_x.pt", GeneratorUNet(16, 3), info)
    assert publish.main([str(tmp_path / "G_x.pt"), str(tmp_path / "G_half.pt")]) == 0
    _, info = checkpoints.load_generator(tmp_path / "G_half.pt", CPU)
    assert (info["config"]["images_dir"], info["config"]["cache_dir"]) == ("photos", "caches/lab")
    assert info["config"]["teachers"] == ["G_one.pt", str(Path("few/G_two.pt"))]


def test_publish_refuses_weights_beyond_float16(tmp_path, capsys):
    path = save_pair(tmp_path)
    entries = torch.load(path, weights_only=True)
    next(iter(entries["weights"].values())).fill_(1e6)
    torch.save(entries, path)
    assert publish.main([str(path), str(tmp_path / "G_half.pt")]) == 2
    assert "beyond float16's range" in capsys.readouterr().err and not (tmp_path / "G_half.pt").exists()


def test_load_stage_takes_over_both_networks(tmp_path):
    path = save_pair(tmp_path)
    generator, discriminator, info = checkpoints.load_stage(path, CPU, "train_lab.py")
    assert generator.training and discriminator.training and info["epoch"] == 1
    assert all(p.requires_grad for p in [*generator.parameters(), *discriminator.parameters()])


def test_load_stage_says_what_to_run_first(tmp_path):
    with pytest.raises(UserError, match=r"G_epoch_030.pt: no such checkpoint; run python train_lab.py first"):
        checkpoints.load_stage(tmp_path / "G_epoch_030.pt", CPU, "train_lab.py")
    path = save_pair(tmp_path)
    (tmp_path / "D_epoch_001.pt").unlink()
    with pytest.raises(UserError, match=r"D_epoch_001.pt: no such checkpoint"):
        checkpoints.load_stage(path, CPU, "train_lab.py")
    path.rename(tmp_path / "best.pt")
    with pytest.raises(UserError, match=r"best.pt: name the G_"):
        checkpoints.load_stage(tmp_path / "best.pt", CPU, "train_lab.py")


def test_load_generator_refuses_what_is_not_a_generator(tmp_path):
    path = save_pair(tmp_path)
    with pytest.raises(UserError, match="kind PatchDiscriminator"):
        checkpoints.load_generator(tmp_path / "D_epoch_001.pt", CPU)
    (tmp_path / "page.pt").write_text("<html>not found</html>")
    (tmp_path / "short.pt").write_bytes(path.read_bytes()[:5000])
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "foreign.pt")
    for name in ("page.pt", "short.pt", "foreign.pt"):
        with pytest.raises(UserError, match=name):
            checkpoints.load_generator(tmp_path / name, CPU)
    entries = torch.load(path, weights_only=True)
    entries["weights"].pop("head.conv.weight")
    torch.save(entries, tmp_path / "missing.pt")
    with pytest.raises(UserError, match=r"do not fit.*head\.conv\.weight"):
        checkpoints.load_generator(tmp_path / "missing.pt", CPU)


@pytest.mark.parametrize(
    "change",
    [
        {"config": {"img_size": math.inf}},
        {"config": {"img_size": 0}},
        {"config": {"img_size": 10**9}},
        {"config": None},
        {"epoch": "/../../../elsewhere"},
        {"stage": 3},
        {"step": None},
        {"saturation": math.nan},
        {"saturation": math.inf},
        {"saturation": 0.0},
        {"saturation": "1.25"},
        {"saturation": None},
        {"architecture": {"width": 16, "depth": 3, "norm": "none", "upsample": "pixelshuffle"}},
        {"architecture": {"width": 16, "depth": math.inf, "norm": "batch", "upsample": "pixelshuffle"}},
    ],
    ids=repr,
)
def test_load_generator_refuses_entries_that_make_no_sense(tmp_path, change):
    path = save_pair(tmp_path)
    torch.save({**torch.load(path, weights_only=True), **change}, path)
    with pytest.raises(UserError, match=r"G_epoch_001.pt: its entries do not fit"):
        checkpoints.load_generator(path, CPU)


def test_load_generator_refuses_weights_that_are_not_finite(tmp_path):
    path = save_pair(tmp_path)
    entries = torch.load(path, weights_only=True)
    entries["weights"]["head.conv.weight"][0, 0, 0, 0] = math.nan
    torch.save(entries, path)
    with pytest.raises(UserError, match="not finite"):
        checkpoints.load_generator(path, CPU)


def test_load_generator_refuses_what_grows_when_it_is_unpacked(tmp_path):
    path, packed = save_pair(tmp_path), tmp_path / "packed.pt"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for part in source.infolist():
            target.writestr(part.filename, bytes(part.file_size))
    with pytest.raises(UserError, match=r"packed.pt: not a readable checkpoint"):
        checkpoints.load_generator(packed, CPU)


class Explosion:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def test_load_generator_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"format": 1, "weights": Explosion()}, "zip.pt")
    Path("plain.pt").write_bytes(pickle.dumps(Explosion()))
    for name in ("zip.pt", "plain.pt"):
        with pytest.raises(UserError, match=name):
            checkpoints.load_generator(Path(name), CPU)
    assert not Path("exploded").exists()


def test_find_checkpoints_takes_the_newest_epoch_of_each_stage(tmp_path, monkeypatch):
    default = tmp_path / "G_default.pt"
    monkeypatch.setattr(config, "DEFAULT_CHECKPOINT", default)
    assert checkpoints.find_checkpoints(tmp_path) == {}
    default.touch()
    assert checkpoints.find_checkpoints(tmp_path) == {"Default": default}
    assert checkpoints.find_checkpoints(tmp_path, with_default=False) == {}
    names = ["checkpoints_subset/G_epoch_005.pt", "checkpoints_subset/G_epoch_030.pt", "checkpoints_subset/best.pt"]
    names += [f"checkpoints_finetune/G_finetune_epoch_{epoch}.pt" for epoch in ("99", "100", "04")]
    names += ["checkpoints_finetune/G_ft_fromE4_vgg_epoch_01.pt", "checkpoints_finetune/D_finetune_epoch_101.pt"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = {stage: path.name for stage, path in checkpoints.find_checkpoints(tmp_path).items()}
    assert list(found.items()) == [
        ("Default", "G_default.pt"),
        ("Subset", "G_epoch_030.pt"),
        ("Finetune", "G_finetune_epoch_100.pt"),
        ("Finetune+VGG", "G_ft_fromE4_vgg_epoch_01.pt"),
    ]


def test_open_atomically_leaves_the_earlier_file_when_writing_fails(tmp_path):
    path = tmp_path / "last.pt"
    path.write_bytes(b"before")
    with pytest.raises(RuntimeError), open_atomically(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]
