"""Files from strangers: whatever is done to a valid one, it loads cleanly or is refused in one line."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import cache_lab
import filter as filter_script
from config import TrainConfig
from dataset_lab_cache import LabCacheDataset
from models_lab import GeneratorUNet, PatchDiscriminator
from utils.coloring.hints import Hint, dump_hints, hint_planes, read_hints
from utils.data.annotations import read_objects
from utils.data.samples import source_hash
from utils.data.split import drop_rejected
from utils.files import list_images
from utils.images import ImageError
from utils.run import UserError
from utils.training import checkpoints
from utils.training.last_checkpoint import Position, resume, save_last

CPU = torch.device("cpu")
MUTATIONS = 400  # of each of the files


def mutate(data: bytes, draw: random.Random) -> bytes:
    """Flip bits, cut, repeat, overwrite or insert a part."""
    broken = bytearray(data)
    first = draw.randrange(len(broken))
    last = min(len(broken), first + draw.choice([1, 4, 64, 4096]))
    kind = draw.randrange(6)
    if kind == 0:
        for _ in range(draw.choice([1, 1, 8])):
            broken[draw.randrange(len(broken))] ^= 1 << draw.randrange(8)
    elif kind == 1:
        del broken[first:]
    elif kind == 2:
        del broken[first:last]
    elif kind == 3:
        broken[first:last] = draw.randbytes(last - first)
    elif kind == 4:
        broken[first:first] = broken[first:last]
    else:
        broken[first:last] = bytes(last - first)
    return bytes(broken)


def mutate_json(data: bytes, draw: random.Random) -> bytes:
    """Replace one value anywhere in a JSON document by one of another kind or size, or leave it out."""
    document = json.loads(data)
    places = []

    def walk(value: object) -> None:
        keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
        for key in keys:
            places.append((value, key))
            walk(value[key])

    walk(document)
    holder, key = draw.choice(places)
    odd = [None, -1, 0, 10**30, 1.5, True, "", "../../etc/passwd", "\u0000", [], {}, [[]], {"a": 1}, float("inf")]
    if draw.random() < 0.2:
        del holder[key]
    else:
        holder[key] = draw.choice(odd)
    return json.dumps(document).encode()


def torment(path: Path, load: Callable[[], object], mutators: list[Callable[[bytes, random.Random], bytes]]) -> int:
    """Load a file after each of MUTATIONS changes, and give how many of these were refused."""
    whole, refused = path.read_bytes(), 0
    for seed in range(MUTATIONS):
        draw = random.Random(seed)
        path.write_bytes(draw.choice(mutators)(whole, draw))
        try:
            load()
        except UserError as error:
            assert str(error) and "\n" not in str(error)
            refused += 1
    path.write_bytes(whole)
    load()
    return refused


@pytest.fixture
def networks(tmp_path: Path) -> Path:
    info = checkpoints.describe("subset", 1, 10, TrainConfig(), {"psnr": 20.0})
    checkpoints.save_network(tmp_path / "D_epoch_001.pt", PatchDiscriminator(4), info)
    checkpoints.save_network(tmp_path / "G_epoch_001.pt", GeneratorUNet(4, 2), info)
    return tmp_path / "G_epoch_001.pt"


def test_generator_files_load_or_are_refused(networks: Path) -> None:
    expected = checkpoints.load_generator(networks, CPU)[0].state_dict()

    def load() -> None:
        found = checkpoints.load_generator(networks, CPU)[0].state_dict()
        assert all(torch.equal(found[name], value) for name, value in expected.items())  # no silent damage

    assert torment(networks, load, [mutate]) > 0.9 * MUTATIONS


def test_discriminator_files_load_or_are_refused(networks: Path) -> None:
    path = networks.with_name("D_epoch_001.pt")
    assert torment(path, lambda: checkpoints.load_stage(networks, CPU, "train_lab.py"), [mutate]) > 0.9 * MUTATIONS


def test_last_files_load_or_are_refused(tmp_path: Path) -> None:
    network, cfg = GeneratorUNet(4, 2), TrainConfig()
    parts = {"generator": network, "optimizer": torch.optim.Adam(network.parameters())}
    save_last(tmp_path, "subset", cfg, "key", Position(1, 2, 3, 4.0), parts)
    load = lambda: resume(tmp_path, "subset", cfg, "key", parts)  # noqa: E731
    assert torment(tmp_path / "last.pt", load, [mutate]) > 0.9 * MUTATIONS


def test_cache_indices_load_or_are_refused(sample_coco: Path, tmp_path: Path) -> None:
    photos = sample_coco / "val2017"
    arguments = [
        "--images-dir",
        str(photos),
        "--cache-dir",
        str(tmp_path),
        "--load-size",
        "40",
        "--shard-images",
        "2",
    ]
    assert cache_lab.main(arguments) == 0
    folder, key = tmp_path / "val2017", source_hash(photos, list_images(photos))

    def load() -> None:
        index = LabCacheDataset.open_index(folder, photos, key, 40)
        data = LabCacheDataset(index, list(index.entries), 32, seed=None)
        for number in range(len(data)):
            data[number]

    refused = torment(folder / "index.json", load, [mutate, mutate_json])
    assert refused > 0.3 * MUTATIONS  # the versions, the commit and what was skipped may say anything


def test_filter_reports_load_or_are_refused(sample_coco: Path, tmp_path: Path) -> None:
    arguments = ["--data-root", str(sample_coco), "--output-dir", str(tmp_path / "subset")]
    assert filter_script.main(arguments) == 0
    images, report = list_images(sample_coco / "train2017"), tmp_path / "subset" / "filter_report.json"
    torment(report, lambda: drop_rejected(images, report), [mutate, mutate_json])


def test_hint_files_load_or_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "hints.json"
    path.write_text(dump_hints([Hint(1, 2, "#2040a0", 3), Hint(4.5, 5, "#808080")], 30, 40))

    def load() -> None:
        hints = read_hints(path)
        with contextlib.suppress(ImageError):
            hints.check(30, 40)
            assert hint_planes(hints.hints, (30, 40), torch.zeros(1, 15, 20)).isfinite().all()

    torment(path, load, [mutate, mutate_json])


def test_annotations_load_or_are_refused(sample_coco: Path, tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    shutil.copyfile(sample_coco / "annotations" / "instances_val2017.json", path)

    def load() -> None:
        shares = read_objects(path, ())
        for sizes in shares.values():
            filter_script.judge_objects(sizes, filter_script.FilterConfig())

    torment(path, load, [mutate, mutate_json])
