"""Every script goes through a folder of broken images, names each, and treats the rest as if they were not there."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from hostile import damaged_images, hopeless_images, whole_images, write_corpus

import cache_lab
import calculate_metrics
import filter as filter_script
import infer_lab
from models_lab import GeneratorUNet
from utils.images import ImageError, read_picture, read_rgb
from utils.training.checkpoints import save_network

COUNT = 1000


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders "all" and "readable", the latter with what `read_rgb` takes, and a generator."""
    folder = tmp_path_factory.mktemp("hostile")
    files = whole_images() | hopeless_images() | damaged_images(COUNT)
    write_corpus(folder / "all", files)
    (folder / "all" / "loop.jpg").symlink_to(folder / "all" / "loop.jpg")
    (folder / "all" / "folder.png").mkdir()
    readable = {}
    for name, data in files.items():
        try:
            read_rgb(folder / "all" / name)
            readable[name] = data
        except ImageError as error:
            assert str(error) and "\n" not in str(error)
    write_corpus(folder / "readable", readable)
    torch.manual_seed(0)
    generator = GeneratorUNet(width=4, depth=2)
    save_network(
        folder / "G_any.pt", generator, {"stage": "subset", "epoch": 1, "step": 9, "config": {"img_size": 32}}
    )
    return folder


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


def test_corpus_has_what_must_be_read_and_what_must_not(corpus: Path) -> None:
    readable = names(corpus / "readable")
    assert set(whole_images()) <= readable
    assert not set(hopeless_images()) & readable
    assert 0.1 * COUNT < len(readable - set(whole_images())) < 0.9 * COUNT


@pytest.mark.parametrize("count", [1, 3])
def test_infer_colors_the_rest_alike_and_names_the_broken(corpus, tmp_path, capsys, count) -> None:
    common = [str(corpus / "G_any.pt"), "--device", "cpu", "--num-workers", str(count), "--batch-size", str(count)]
    for which in ("readable", "all"):
        assert infer_lab.main([str(corpus / which), *common, "--output-dir", str(tmp_path / which)]) == 0
    printed = capsys.readouterr().out
    broken = names(corpus / "all") - names(corpus / "readable")
    assert all(f"skipped {corpus / 'all' / name}: " in printed for name in broken)
    assert f"skipped {len(broken) + 1};" in printed  # and the loop
    alone, among = ({p.name: p for p in (tmp_path / which).iterdir()} for which in ("readable", "all"))
    assert alone.keys() == among.keys()
    for name, path in alone.items():
        pixels, others = (read_picture(file).rgb.astype(int) for file in (path, among[name]))
        assert pixels.shape == others.shape
        if count == 1:  # alone in its batch: nothing else may touch it
            assert path.read_bytes() == among[name].read_bytes()


def test_cache_holds_the_rest_alike_and_names_the_broken(corpus, tmp_path) -> None:
    indices = {}
    for which in ("readable", "all"):
        arguments = ["--images-dir", str(corpus / which), "--cache-dir", str(tmp_path), "--load-size", "40"]
        assert cache_lab.main(arguments) == 0
        indices[which] = json.loads((tmp_path / which / "index.json").read_text())
    assert indices["all"]["shards"] == indices["readable"]["shards"]
    shards = [(tmp_path / which / "shard_00000.bin").read_bytes() for which in indices]
    assert shards[0] == shards[1]
    broken = names(corpus / "all") - names(corpus / "readable")
    assert broken <= set(indices["all"]["meta"]["skipped"])


def test_filter_keeps_the_same_and_names_the_broken(corpus, tmp_path) -> None:
    kept, reports = {}, {}
    for which in ("readable", "all"):
        arguments = [
            "--no-use-annotations",
            "--images-dir",
            str(corpus / which),
            "--output-dir",
            str(tmp_path / which),
        ]
        assert filter_script.main(arguments) == 0
        kept[which] = names(tmp_path / which) - {"filter_report.json"}
        reports[which] = json.loads((tmp_path / which / "filter_report.json").read_text())
    assert kept["all"] == kept["readable"]
    broken = names(corpus / "all") - names(corpus / "readable")
    assert all(reports["all"]["details"][name].startswith("unreadable: ") for name in broken)


def test_metrics_score_the_rest_alike_and_name_the_broken(corpus, tmp_path) -> None:
    tables = {}
    for which in ("readable", "all"):
        arguments = ["--images-dir", str(corpus / which), "--checkpoint", "Any", str(corpus / "G_any.pt")]
        arguments += ["--inception-weights", "none", "--lpips-weights", "none", "--img-size", "32"]
        arguments += ["--device", "cpu", "--batch-size", "1"]
        assert calculate_metrics.main([*arguments, "--output-dir", str(tmp_path / which)]) == 0
        with open(tmp_path / which / "evaluation_metrics.csv", newline="") as file:
            tables[which] = list(csv.reader(file))
    assert tables["all"] == tables["readable"]
    broken = names(corpus / "all") - names(corpus / "readable")
    skipped = json.loads((tmp_path / "all" / "evaluation_metrics.json").read_text())["skipped"]
    assert broken | {"loop.jpg"} == {Path(path).name for path in skipped}


def test_infer_skips_what_a_list_names_in_vain(corpus, tmp_path, capsys) -> None:
    (tmp_path / "plain.jpg").write_bytes(whole_images()["plain.jpg"])
    lines = ["plain.jpg", "absent.jpg", "x" * 5000, ".", "..", "plain.jpg/inside.jpg", "../../nowhere/a.png"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    arguments = [str(tmp_path / "list.txt"), str(corpus / "G_any.pt"), "--device", "cpu"]
    assert infer_lab.main([*arguments, "--format", "png", "--output-dir", str(tmp_path / "deep" / "out")]) == 0
    assert "skipped 6;" in capsys.readouterr().out
    written = [path for path in tmp_path.rglob("*.png") if path.is_file()]
    assert len(written) == 1 and written[0].is_relative_to(tmp_path / "deep" / "out")
    assert cache_lab.main(["--images-dir", str(tmp_path / "list.txt"), "--cache-dir", str(tmp_path / "cache")]) == 0
    assert len(json.loads((tmp_path / "cache" / "list" / "index.json").read_text())["meta"]["skipped"]) == 6
