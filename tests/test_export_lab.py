from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from coloring_subjects import CPU, PHOTO, visible_generator
from torch import nn

import export_lab
import infer_lab
from affinity_lab import even_out, lift_pale
from models_lab import GeneratorUNet
from utils import lab
from utils.coloring.exported import KEY, OnnxGenerator, open_generator
from utils.images import read_picture, write_png
from utils.training.checkpoints import save_network

ROOT = Path(__file__).parent.parent
WHY = "it is in requirements-export.txt"
INFO = {"stage": "subset", "epoch": 3, "step": 9, "config": {"img_size": 64}}
onnx = pytest.importorskip("onnx", reason=f"onnx is not installed; {WHY}")
pytest.importorskip("onnxscript", reason=f"onnxscript is not installed; {WHY}")
pytest.importorskip("onnxruntime", reason=f"onnxruntime is not installed; {WHY}")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with G_any.pt and, from main, G_any.onnx and G_any.pt2; read only."""
    folder = tmp_path_factory.mktemp("exported")
    save_network(folder / "G_any.pt", visible_generator(), INFO)
    assert export_lab.main([str(folder / "G_any.pt"), "--output-dir", str(folder)]) == 0
    return folder


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 1, 64, 64), (3, 1, 30, 47), (2, 1, 128, 96)])
def test_exported_file_predicts_as_pytorch_does(exported: Path, suffix: str, shape: tuple[int, ...]) -> None:
    generator, _ = open_generator(exported / "G_any.pt", CPU)
    if suffix == "onnx":
        other = OnnxGenerator((exported / "G_any.onnx").read_bytes())
    else:
        other = torch.export.load(exported / "G_any.pt2").module()
    l = noise(*shape)
    with torch.inference_mode():
        ab = generator(l)
        assert ab.abs().max() > 1e-3  # a difference could be seen
        assert (other(l) - ab).abs().max() <= 1e-4


@pytest.mark.parametrize(("norm", "upsample"), [("instance", "resize"), ("group", "pixelshuffle")])
def test_export_knows_every_architecture(norm: str, upsample: str) -> None:
    torch.manual_seed(0)
    generator = GeneratorUNet(width=4, depth=2, norm=norm, upsample=upsample).eval()
    data, _ = export_lab.export(generator, "{}")
    assert export_lab.largest_difference(generator, OnnxGenerator(data)) <= 1e-4


class Evened(nn.Module):
    """What a `PretrainedUNet` does to its prediction; exporting all of one takes a minute and a half."""

    def forward(self, l: torch.Tensor) -> torch.Tensor:
        l = F.pad(l, (0, -l.shape[3] % 32, 0, -l.shape[2] % 32), mode="replicate")
        return lift_pale(
            even_out(torch.cat([l, -l], dim=1) / 3, l, F.avg_pool2d(torch.cat([l, l * l], dim=1), 4)), 0.15
        )


def test_export_knows_what_evens_the_colors_out() -> None:
    data, _ = export_lab.export(Evened().eval(), "{}")
    assert export_lab.largest_difference(Evened(), OnnxGenerator(data)) <= 1e-4


def test_exported_files_say_what_they_are(exported: Path) -> None:
    model = onnx.load(exported / "G_any.onnx", load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert not any(weight.external_data for weight in model.graph.initializer)
    values = [*model.graph.input, *model.graph.output]
    shapes = [[side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim] for value in values]
    assert shapes == [["batch", 1, "height", "width"], ["batch", 2, "height", "width"]]
    metadata = {entry.key: json.loads(entry.value) for entry in model.metadata_props}[KEY]
    generator, info = open_generator(exported / "G_any.pt", CPU)
    assert metadata == {**info, "scaling": lab.SCALING}
    assert metadata["architecture"] == generator.architecture and metadata["config"]["img_size"] == 64
    l, ab = torch.tensor([0.0, 80.0]), torch.tensor([-55.0, 110.0])
    assert torch.equal(l / metadata["scaling"]["l_center"] - 1, lab.normalize_l(l))
    assert torch.equal(ab / metadata["scaling"]["ab_scale"], lab.normalize_ab(ab))
    extra = {f"{KEY}.json": ""}
    torch.export.load(exported / "G_any.pt2", extra_files=extra)
    assert json.loads(extra[f"{KEY}.json"]) == metadata


def test_pt2_holds_no_torchscript(exported: Path) -> None:
    with zipfile.ZipFile(exported / "G_any.pt2") as archive:
        assert not [name for name in archive.namelist() if "/code/" in name]


@pytest.mark.parametrize("batch_size", [1, 8])
def test_infer_colors_with_an_onnx_file(
    exported: Path, tmp_path: Path, batch_size: int, capsys: pytest.CaptureFixture[str]
) -> None:
    for index, (h, w) in enumerate([(100, 151), (60, 60), (100, 151)]):
        write_png(tmp_path / "in" / f"{index}.png", np.ascontiguousarray(PHOTO[-h:, -w:]))
    for suffix in ("pt", "onnx"):
        arguments = ["--no-amp", "--device", "cpu", "--num-workers", "2", "--batch-size", str(batch_size)]
        command = [str(tmp_path / "in"), str(exported / f"G_any.{suffix}"), "--output-dir", str(tmp_path / suffix)]
        assert infer_lab.main([*command, *arguments]) == 0
    assert "G_any.onnx (stage subset, epoch 3), at 64 px" in capsys.readouterr().out
    for name in ("0.png", "1.png", "2.png"):
        ours, theirs = (read_picture(tmp_path / suffix / name) for suffix in ("pt", "onnx"))
        assert ours.has_color and np.abs(ours.rgb.astype(int) - theirs.rgb).max() <= 1


def rewrite(source: Path, target: Path, change: str) -> None:
    """Copy an ONNX file that is still valid as such, but not ours."""
    model = onnx.load(source)
    entry = next(entry for entry in model.metadata_props if entry.key == KEY)
    metadata = json.loads(entry.value)
    if change == "scaling":
        metadata["scaling"]["ab_scale"] = 128.0
    elif change == "size":
        del metadata["config"]
    elif change == "key":
        entry.key = "other"
    else:
        model.graph.output[0].name = model.graph.node[-1].output[0] = "color"
    entry.value = json.dumps(metadata)
    onnx.save(model, target)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("scaling", "uses another color scaling"),
        ("size", "not an ONNX file of this project (KeyError)"),
        ("key", "not an ONNX file of this project (KeyError)"),
        ("output", "not an ONNX file of this project"),
        ("cut", "not an ONNX file of this project"),
        ("text", "not an ONNX file of this project"),
        ("gone", "no such checkpoint"),
    ],
)
def test_infer_names_a_foreign_onnx_file_in_one_line(
    exported: Path, tmp_path: Path, change: str, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "G.onnx"
    if change == "cut":
        path.write_bytes((exported / "G_any.onnx").read_bytes()[:-5000])
    elif change == "text":
        path.write_text("hello")
    elif change != "gone":
        rewrite(exported / "G_any.onnx", path, change)
    write_png(tmp_path / "a.png", PHOTO)
    assert infer_lab.main([str(tmp_path / "a.png"), str(path), "--output-dir", str(tmp_path / "out")]) == 2
    error = capfd.readouterr().err
    assert error.startswith(f"error: {path}: {reason}") and "export_lab.py" in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "reason"),
    [("G_any.onnx", "is already exported"), ("G_any.pt2", "not a readable"), ("no.pt", "no such checkpoint")],
)
def test_main_names_a_checkpoint_that_it_cannot_export(
    exported: Path, tmp_path: Path, name: str, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert export_lab.main([str(exported / name), "--output-dir", str(tmp_path / "out")]) == 2
    error = capfd.readouterr().err
    assert error.startswith(f"error: {exported / name}: {reason}") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_missing_library_ends_in_one_line(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    write_png(tmp_path / "a.png", PHOTO)
    output = ["--output-dir", str(tmp_path / "out")]
    assert export_lab.main([str(exported / "G_any.pt"), *output]) == 2
    assert infer_lab.main([str(tmp_path / "a.png"), str(exported / "G_any.onnx"), *output]) == 2
    mend = "pip install -r requirements-export.txt"
    assert capfd.readouterr().err.splitlines() == [
        f"error: onnxruntime is missing; {mend}",
        f"error: {exported / 'G_any.onnx'}: needs onnxruntime; {mend}",
    ]
    assert not (tmp_path / "out").exists()


def test_main_writes_nothing_that_differs(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    files = tuple((exported / f"G_any.{suffix}").read_bytes() for suffix in ("onnx", "pt2"))
    monkeypatch.setattr(export_lab, "export", lambda generator, metadata: files)
    torch.manual_seed(5)
    save_network(tmp_path / "G.pt", GeneratorUNet(width=4, depth=2), INFO)
    assert export_lab.main([str(tmp_path / "G.pt"), "--output-dir", str(tmp_path / "out")]) == 2
    assert "the .onnx file differs by" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_documented_example_colors_without_torch(exported: Path, tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "EXPORT.md").read_text(), re.DOTALL)
    cv2.imwrite(str(tmp_path / "photo.jpg"), PHOTO[:, :, ::-1])
    (tmp_path / "G_default.onnx").write_bytes((exported / "G_any.onnx").read_bytes())
    without = "import sys\nsys.modules['torch'] = None\n"
    subprocess.run([sys.executable, "-c", without + code], cwd=tmp_path, check=True)
    command = [str(tmp_path / "photo.jpg"), str(exported / "G_any.pt"), "--output-dir", str(tmp_path / "out")]
    assert infer_lab.main([*command, "--format", "png", "--no-amp", "--device", "cpu"]) == 0
    ours, theirs = read_picture(tmp_path / "out" / "photo.png"), read_picture(tmp_path / "colored.png")
    assert theirs.has_color and np.abs(ours.rgb.astype(int) - theirs.rgb).mean() < 3  # the gamut is clipped otherwise
