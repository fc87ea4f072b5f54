"""Samples: the same from files and cache, and the same whoever makes them."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from skimage import data

import cache_lab
from config import CacheConfig, TrainConfig
from dataset_lab_cache import LabCacheDataset, cache_folder, open_source
from dataset_lab_subset import LabSubsetDataset
from utils import run
from utils.data.loaders import TrainingData, open_training_data
from utils.data.samples import choose_crop, image_keys, load_rgb, sample_draws, source_hash
from utils.data.split import EpochBatches, is_held_out
from utils.files import list_images
from utils.images import write_png
from utils.run import UserError

ROOT = Path(__file__).parent.parent


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Photographs of several shapes and types, one pair that differs in the suffix alone, and one broken file."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, image in enumerate((data.astronaut(), data.chelsea(), data.coffee(), data.rocket())):
        cv2.imwrite(str(folder / f"{i}.JPG"), image[:, :, ::-1])
        write_png(folder / f"{i}_crop.png", image[20 : 150 + 9 * i, 10:171])
    write_png(folder / "twin.png", data.chelsea()[:100, :90])
    cv2.imwrite(str(folder / "twin.jpeg"), data.coffee()[:90, :100, ::-1])
    cv2.imwrite(str(folder / "gray.bmp"), data.camera()[::4, ::4])
    cv2.imwrite(str(folder / "scan.tif"), data.coffee()[::2, ::2, ::-1].astype(np.uint16) * 257)
    cv2.imwrite(str(folder / "web.webp"), data.rocket()[::2, ::2, ::-1])
    (folder / "broken.jpg").write_bytes(b"not an image")
    return folder


def make_cache(photos: Path, cache_dir: Path, **changes: object) -> Path:
    values = {"images_dir": photos, "cache_dir": cache_dir, "load_size": 72, "num_workers": 2}
    return cache_lab.cache(CacheConfig(**{**values, **changes}))


def open_cache(folder: Path, photos: Path) -> tuple:
    return LabCacheDataset.open_index(folder, photos, source_hash(photos, list_images(photos)), 72)


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("scale_jitter", [0.0, 0.2])
def test_cache_and_files_give_the_same_samples(photos, tmp_path, seed, scale_jitter):
    index = open_cache(make_cache(photos, tmp_path / "cache", shard_images=5), photos)
    paths = [path for path in list_images(photos) if path.name in index.entries]
    assert len(paths) == 13
    from_cache = LabCacheDataset(index, image_keys(photos, paths), 64, seed, scale_jitter)
    from_files = LabSubsetDataset(paths, 64, 72, seed, scale_jitter)
    assert len(from_cache) == len(from_files) == 13
    for key in range(13):
        for (l, ab), (file_l, file_ab) in zip(
            [from_cache[key], from_cache[(7, key)]], [from_files[key], from_files[(7, key)]], strict=True
        ):
            assert l.dtype == ab.dtype == torch.uint8
            assert l.shape == (1, 64, 64) and ab.shape == (2, 64, 64)
            assert torch.equal(l, file_l) and torch.equal(ab, file_ab)
    keys = [(2, 5), (2, 0), (3, 5)]
    batch_l, batch_ab = from_cache.__getitems__(keys)
    for (l, ab), key in zip(zip(batch_l, batch_ab, strict=True), keys, strict=True):
        assert torch.equal(l, from_files[key][0]) and torch.equal(ab, from_files[key][1])


def test_choose_crop_finds_every_place_and_both_directions():
    seen = set()
    for index in range(200):
        rows, columns, flip = choose_crop(8, 9, 6, sample_draws(0, 0, index), 0.0)
        assert rows.stop - rows.start == columns.stop - columns.start == 6
        seen.add((rows.start, columns.start, flip))
    assert seen == {(top, left, flip) for top in range(3) for left in range(4) for flip in (False, True)}
    assert choose_crop(8, 9, 6, None, 0.5) == (slice(1, 7), slice(1, 7), False)
    rows = [choose_crop(30, 40, 20, sample_draws(0, 1, index), 0.2)[0] for index in range(300)]
    assert {row.stop - row.start for row in rows} == set(range(16, 25))
    assert choose_crop(20, 40, 20, (0.99, 0, 0, 0), 0.2)[0] == slice(0, 20)


def test_samples_are_flipped_left_to_right(tmp_path):
    write_png(tmp_path / "a.png", np.tile(np.arange(0, 200, 10, np.uint8)[None, :, None], (20, 1, 3)))
    whole = LabSubsetDataset([tmp_path / "a.png"], 20, 20, seed=None)[0]
    random = LabSubsetDataset([tmp_path / "a.png"], 20, 20, seed=0)
    flips = [choose_crop(20, 20, 20, sample_draws(0, epoch, 0), 0.0)[2] for epoch in range(8)]
    assert 0 < sum(flips) < 8
    for epoch, flip in enumerate(flips):
        for planes, expected in zip(random[(epoch, 0)], whole, strict=True):
            assert torch.equal(planes, expected.flip(2) if flip else expected)


def test_sample_draws_are_uniform_and_independent():
    draws = np.array([sample_draws(seed, 3, index) for seed in (0, 1) for index in range(4000)])
    assert len(np.unique(draws)) == draws.size and draws.min() >= 0 and draws.max() < 1
    counts = np.stack([np.histogram(column, 10, (0, 1))[0] for column in draws.T])
    assert np.abs(counts - 800).max() < 5 * np.sqrt(800)
    assert np.abs(np.corrcoef(draws.T) - np.eye(4)).max() < 5 / np.sqrt(len(draws))


def test_random_samples_depend_on_epoch_and_index_alone(photos):
    paths = [path for path in list_images(photos) if path.name != "broken.jpg"]
    first, second = (LabSubsetDataset(paths, 64, 72, seed=5) for _ in range(2))
    later = second[(0, 4)], second[(1, 4)]
    assert torch.equal(first[(0, 4)][0], later[0][0])
    assert not torch.equal(later[0][0], later[1][0])
    assert not torch.equal(LabSubsetDataset(paths, 64, 72, seed=6)[(0, 4)][0], later[0][0])


def test_files_dataset_replaces_and_names_a_broken_image(photos, capfd):
    paths = list_images(photos)
    position = [path.name for path in paths].index("broken.jpg")
    dataset = LabSubsetDataset(paths, 64, 72, seed=None)
    assert torch.equal(dataset[position][0], dataset[position + 1][0])
    dataset[position]
    assert capfd.readouterr().err.count("broken.jpg: not an image") == 1
    with pytest.raises(UserError, match="none of its 1 images"):
        LabSubsetDataset([photos / "broken.jpg"], 64, 72, seed=None)[0]


def test_cache_costs_three_bytes_a_pixel_and_names_what_it_skips(photos, tmp_path, capsys):
    folder = make_cache(photos, tmp_path / "cache")
    index = json.loads((folder / "index.json").read_text())
    (shard,) = index["shards"]
    assert (folder / "shard_00000.bin").stat().st_size == sum(3 * h * w for _, h, w in shard)
    assert all(min(h, w) == 72 for _, h, w in shard)
    assert [name for name, _, _ in shard if name.startswith("twin")] == ["twin.jpeg", "twin.png"]
    assert list(index["meta"]["skipped"]) == ["broken.jpg"]
    assert "broken.jpg: not an image" in capsys.readouterr().out
    by_name = {name: (h, w) for name, h, w in shard}
    assert by_name["2.JPG"] == load_rgb(photos / "2.JPG", 72).shape[:2] == (72, 108)  # coffee is 400 x 600
    assert sorted(path.name for path in folder.iterdir()) == ["index.json", "request.json", "shard_00000.bin"]


def test_cache_goes_on_where_it_stopped(photos, tmp_path):
    whole = make_cache(photos, tmp_path / "whole", shard_images=4)
    folder = make_cache(photos, tmp_path / "part", shard_images=4)
    # As an interrupt leaves it: two shards with their records, a temporary file, no index
    index = json.loads((folder / "index.json").read_text())
    for number in (0, 1):
        record = {"entries": index["shards"][number], "skipped": {}}
        (folder / f"shard_0000{number}.json").write_text(json.dumps(record))
    first = (folder / "shard_00000.bin").stat().st_mtime_ns
    for name in ("index.json", "shard_00002.bin", "shard_00003.bin"):
        (folder / name).unlink()
    again = make_cache(photos, tmp_path / "part", shard_images=4)
    assert (folder / "shard_00000.bin").stat().st_mtime_ns == first
    for path in whole.glob("*.bin"):
        assert path.read_bytes() == (again / path.name).read_bytes()
    assert (
        json.loads((whole / "index.json").read_text())["shards"]
        == json.loads((again / "index.json").read_text())["shards"]
    )


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL on Windows")
def test_cache_killed_and_run_again_is_byte_identical(photos, tmp_path):
    whole = make_cache(photos, tmp_path / "whole", shard_images=2)
    command = [sys.executable, "cache_lab.py", "--images-dir", str(photos), "--cache-dir", str(tmp_path / "killed")]
    command += ["--load-size", "72", "--shard-images", "2", "--num-workers", "1"]
    folder = tmp_path / "killed" / "photos"
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (folder / "shard_00001.json").exists():
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    for path in whole.glob("*.bin"):
        assert path.read_bytes() == (folder / path.name).read_bytes()


def test_cache_refuses_another_request_and_replaces_it_when_told(photos, tmp_path, capsys):
    folder = make_cache(photos, tmp_path / "cache")
    make_cache(photos, tmp_path / "cache")
    assert "already whole" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"another request \(load_size\); --overwrite"):
        make_cache(photos, tmp_path / "cache", load_size=80)
    (photos / "gray.bmp").unlink()
    with pytest.raises(UserError, match="source_hash"):
        make_cache(photos, tmp_path / "cache")
    make_cache(photos, tmp_path / "cache", overwrite=True)
    assert "gray.bmp" not in (folder / "index.json").read_text()


def test_cache_replaced_goes_on_after_a_kill(photos, tmp_path):
    expected = make_cache(photos, tmp_path / "expected", load_size=40, shard_images=2)
    folder = make_cache(photos, tmp_path / "cache", shard_images=2)
    (folder / "index.json").unlink()  # killed while the old one was removed
    make_cache(photos, tmp_path / "cache", load_size=40, shard_images=2, overwrite=True)
    assert {p.name: p.read_bytes() for p in folder.glob("*.bin")} == {
        p.name: p.read_bytes() for p in expected.glob("*.bin")
    }
    # Killed again, between two shards of the new one: what is there stays
    entries = json.loads((folder / "index.json").read_text())["shards"]
    (folder / "index.json").unlink()
    (folder / "shard_00000.json").write_text(json.dumps({"entries": entries[0], "skipped": {}}))
    (folder / "shard_00000.bin").write_bytes(b"as it was")
    make_cache(photos, tmp_path / "cache", load_size=40, shard_images=2, overwrite=True)
    assert (folder / "shard_00000.bin").read_bytes() == b"as it was"


def test_cache_goes_on_after_a_kill_within_its_first_file(photos, tmp_path):
    folder = cache_folder(tmp_path / "cache", photos)
    folder.mkdir(parents=True)
    (folder / "request.json.tmp").write_text("{")
    make_cache(photos, tmp_path / "cache")
    assert not list(folder.glob("*.tmp"))


def test_cache_does_not_touch_a_folder_that_is_not_its_own(photos, tmp_path):
    folder = cache_folder(tmp_path / "cache", photos)
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="did not write"):
        make_cache(photos, tmp_path / "cache", overwrite=True)
    assert (folder / "thesis.txt").read_text() == "mine"


def test_open_index_refuses_what_does_not_fit(photos, tmp_path):
    folder = make_cache(photos, tmp_path / "cache")
    key = source_hash(photos, list_images(photos))
    flags = f"--images-dir {photos} --load-size 90 --cache-dir {folder.parent} --overwrite"
    with pytest.raises(UserError, match=rf"at 72 px, but --load-size is 90.*{re.escape(flags)}"):
        LabCacheDataset.open_index(folder, photos, key, 90)
    with pytest.raises(UserError, match="made from other images"):
        LabCacheDataset.open_index(folder, photos, "another", 72)
    with open(folder / "shard_00000.bin", "ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match="damaged"):
        LabCacheDataset.open_index(folder, photos, key, 72)
    (folder / "index.json").write_text("{")
    with pytest.raises(UserError, match="not a readable JSON"):
        LabCacheDataset.open_index(folder, photos, key, 72)


def test_list_file_as_source_has_a_cache_of_its_own(photos, tmp_path):
    chosen = tmp_path / "chosen.txt"
    chosen.write_text("photos/1.JPG\nphotos/twin.png\n")
    folder = make_cache(chosen, tmp_path / "cache")
    assert folder.name == "chosen"
    assert set(open_cache(folder, chosen).entries) == {"photos/1.JPG", "photos/twin.png"}


def test_held_out_images_are_the_same_for_a_subset():
    images = [Path(f"{i:012d}.jpg") for i in range(4000)]
    held_out = [path for path in images if is_held_out(path, 0.02)]
    assert 50 < len(held_out) < 110
    assert [path for path in images[::3] if is_held_out(Path("elsewhere") / path, 0.02)] == [
        path for path in held_out if int(path.stem) % 3 == 0
    ]
    assert set(held_out) < {path for path in images if is_held_out(path, 0.05)}


def test_epoch_batches_cover_an_epoch_once_and_resume_anywhere():
    batches = EpochBatches(count=10, batch_size=3, seed=1)
    assert len(batches) == 3
    whole = list(batches)
    assert len({index for batch in whole for _, index in batch}) == 9
    batches.set_position(0, 1, 3)
    assert list(batches) == whole[1:]
    batches.set_position(1, 0, 3)
    assert list(batches) != whole and {epoch for batch in batches for epoch, _ in batch} == {1}
    assert len(EpochBatches(count=2, batch_size=16, seed=0)) == 1


def test_epoch_batches_of_two_processes_make_the_batches_of_one(monkeypatch):
    alone = list(EpochBatches(count=40, batch_size=8, seed=2))
    monkeypatch.setattr(run, "world_size", lambda: 2)
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr(run, "rank", lambda rank=rank: rank)
        parts.append(list(EpochBatches(count=40, batch_size=4, seed=2)))
    assert [sorted(a + b) for a, b in zip(*parts, strict=True)] == [sorted(batch) for batch in alone]


def test_epoch_batches_give_every_process_as_many_images(monkeypatch):
    monkeypatch.setattr(run, "world_size", lambda: 3)
    monkeypatch.setattr(run, "rank", lambda: 2)
    (batch,) = EpochBatches(count=11, batch_size=128, seed=0)
    assert len(batch) == 3


def config_for(photos: Path, tmp_path: Path, **changes: object) -> TrainConfig:
    values = {"images_dir": photos, "cache_dir": tmp_path / "cache", "img_size": 64, "load_size": 72, "batch_size": 4}
    return TrainConfig(**{**values, "val_fraction": 0.3, "num_workers": 0, "device": "cpu", **changes})


def open_for_training(photos: Path, tmp_path: Path, report: Path | None = None, **changes: object) -> TrainingData:
    cfg = config_for(photos, tmp_path, **changes)
    return open_training_data(cfg, open_source(cfg, report))


def test_open_training_data_prefers_the_cache_and_keeps_the_split_apart(photos, tmp_path, capsys):
    cfg = config_for(photos, tmp_path)
    (photos / "broken.jpg").unlink()
    from_files = open_training_data(cfg, open_source(cfg))
    hint = f"--images-dir {photos} --load-size 72 --cache-dir {tmp_path / 'cache'})"
    assert "from the files" in (printed := capsys.readouterr().out) and hint in printed
    make_cache(photos, tmp_path / "cache")
    from_cache = open_training_data(cfg, open_source(cfg))
    assert "from the cache" in capsys.readouterr().out
    assert torch.equal(from_files.fixed[0], from_cache.fixed[0])
    for (l, ab), (file_l, file_ab) in zip(from_cache.loader, from_files.loader, strict=True):
        assert torch.equal(l, file_l) and torch.equal(ab, file_ab)
    train = {path.name for path in from_files.loader.dataset.images}
    held_out = {path.name for path in from_files.val_loader.dataset.images}
    assert train and held_out and not train & held_out


def test_open_training_data_leaves_out_gray_and_broken_images(photos, tmp_path):
    report = tmp_path / "filter_report.json"
    report.write_text(json.dumps({"rejected": {"gray.bmp": ["gray"], "broken.jpg": ["unreadable"], "0.JPG": ["x"]}}))
    opened = open_for_training(photos, tmp_path, report)
    names = {path.name for path in opened.loader.dataset.images + opened.val_loader.dataset.images}
    assert names == {path.name for path in list_images(photos)} - {"gray.bmp", "broken.jpg"}


def test_open_training_data_explains_that_no_image_is_left(photos, tmp_path):
    report = tmp_path / "filter_report.json"
    report.write_text(json.dumps({"rejected": {path.name: ["gray"] for path in list_images(photos)}}))
    with pytest.raises(UserError, match=r"no image is left .* another --filter-report"):
        open_for_training(photos, tmp_path, report)


def test_open_training_data_explains_more_processes_than_images(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "world_size", lambda: 100)
    with pytest.raises(UserError, match="images to train on; start at most as many processes"):
        open_for_training(photos, tmp_path)


def test_open_training_data_explains_an_empty_split(photos, tmp_path):
    with pytest.raises(UserError, match="--val-fraction"):
        open_for_training(photos, tmp_path, val_fraction=0.0)


def test_workers_give_the_batches_of_the_main_process(photos, tmp_path):
    make_cache(photos, tmp_path / "cache")
    alone = list(open_for_training(photos, tmp_path).loader)
    with_workers = open_for_training(photos, tmp_path, num_workers=2).loader
    with_workers.multiprocessing_context = "spawn"
    for (l, ab), (worker_l, worker_ab) in zip(alone, with_workers, strict=True):
        assert torch.equal(l, worker_l) and torch.equal(ab, worker_ab)
