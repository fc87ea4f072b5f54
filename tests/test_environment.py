"""Every script where there is no home folder, no network, no GPU and no UTF-8, with workers that are spawned."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NAMES = [b"caf\xe9.jpg", "новый 写真.jpg".encode(), b"-dash.jpg", b"line\nbreak.jpg"]  # the first is not UTF-8

DRIVER = """
import importlib, multiprocessing, socket, sys

class NoNetwork(socket.socket):
    def connect(self, address):
        if self.family != socket.AF_UNIX:  # processes talk to each other through those
            raise OSError("no network")
        return super().connect(address)

socket.socket = NoNetwork
multiprocessing.set_start_method("spawn")
tiny = "--img-size 32 --load-size 36 --batch-size 4 --val-fraction 0.2 --val-images 4 --max-steps 2 --device cpu"
networks = "--encoder none --gen-width 8 --gen-depth 3 --disc-width 8 --num-workers 1"
for line in [
    f"filter --no-use-annotations --images-dir {sys.argv[1]} --num-workers 1",
    "cache_lab --load-size 36",
    f"train_lab {tiny} {networks}",
    f"train_lab_finetune {tiny} --images-dir {sys.argv[1]} --init-checkpoint checkpoints_subset/G_epoch_001.pt "
    "--num-workers 0",
    f"infer_lab {sys.argv[1]} --device cpu --compare",
    f"calculate_metrics --images-dir {sys.argv[1]} --inception-weights none --lpips-weights none "
    "--img-size 64 --device cpu",
]:
    name, *arguments = line.split()
    code = importlib.import_module(name).main(arguments)
    if code:
        sys.exit(f"{line}: {code}")
print("all done")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow no such names")
def test_scripts_run_without_home_network_gpu_and_locale(sample_coco: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(sample_coco / "train2017", photos)
    for name, path in zip(NAMES, sorted(photos.iterdir()), strict=False):
        os.rename(path, os.path.join(os.fsencode(photos), name))
    (photos / "empty.jpg").touch()
    os.rename(photos / "empty.jpg", os.fsencode(photos) + b"/broken \xe9 \xd1\x8f.jpg")
    environment = {"PATH": os.environ["PATH"], "HOME": "/proc/none", "PYTHONPATH": str(ROOT), "LC_ALL": "C"}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", DRIVER, str(photos)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True)
    assert done.returncode == 0 and done.stdout.endswith(b"all done\n"), done.stderr.decode(errors="replace")
    report = json.loads((tmp_path / "coco_subset_colorization" / "filter_report.json").read_bytes())
    (unreadable,) = [name for name, why in report["rejected"].items() if "unreadable" in why]
    assert unreadable.startswith("broken ")
    outputs = os.listdir(os.fsencode(tmp_path / "outputs"))
    assert all(name in outputs for name in NAMES)
    metrics = json.loads((tmp_path / "evaluation" / "evaluation_metrics.json").read_bytes())
    assert len(metrics["skipped"]) == 1


def test_a_script_whose_output_nobody_reads_ends_without_a_word(sample_coco: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "cache_lab.py"), "--images-dir", str(sample_coco / "train2017")]
    command += ["--cache-dir", str(tmp_path), "--load-size", "36"]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}  # as users run it
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=buffered)
    assert process.stdout and process.stderr
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait() == 1 and b"rror" not in errors, errors.decode()
