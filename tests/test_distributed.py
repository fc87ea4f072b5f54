"""Several processes under torchrun do what one does: training, the cache, and going on after a crash."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
TINY = ["--img-size", "32", "--load-size", "36", "--val-fraction", "0.15", "--num-workers", "0", "--device", "cpu"]
TINY += [
    "--encoder",
    "none",
    "--gen-width",
    "8",
    "--gen-depth",
    "3",
    "--disc-width",
    "8",
    "--norm",
    "group",
    "--no-amp",
]


def torchrun(processes: int, *command: object, restarts: int = 0) -> subprocess.CompletedProcess:
    """Run a script in several processes of one core each."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    start += [f"--nproc_per_node={processes}", f"--max_restarts={restarts}"]
    # Without the second, restarted processes can meet addresses of dead ones (pytorch/pytorch issue 135712).
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    return subprocess.run(
        [*start, *map(str, command)], cwd=ROOT, env=env, capture_output=True, text=True, timeout=240
    )


def train_command(photos: Path, output: Path, batch_size: int, *more: object) -> list[object]:
    folders = ["--images-dir", photos / "train2017", "--cache-dir", output / "cache", "--output-dir", output]
    return ["train_lab.py", *folders, *TINY, "--batch-size", batch_size, *more]


def newest(folder: Path) -> dict:
    return torch.load(max(folder.glob("G_epoch_*.pt")), weights_only=True)


def test_two_processes_train_as_one_does(sample_coco, tmp_path):
    networks, logs = [], []
    for processes, batch_size in ((1, 16), (2, 8)):
        folder = tmp_path / str(processes)
        more = ["--max-steps", 20, "--epochs", 20, "--lambda-l1", 100, "--learning-rate", 2e-4]
        # a heavier L1 and larger steps let rounding grow faster
        done = torchrun(processes, *train_command(sample_coco, folder, batch_size, *more))
        assert done.returncode == 0, done.stderr
        networks.append(newest(folder))
        logs.append([json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()])
    one, two = networks
    assert one["step"] == two["step"] == 20
    for name, weight in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], weight, rtol=0, atol=1e-4)
    assert len(logs[0]) == len(logs[1]) == 10
    for a, b in zip(*logs, strict=True):
        assert b == pytest.approx(a, rel=1e-4, abs=1e-4)


KILLED_ONCE = """
import os, signal, sys
sys.path.insert(0, {root!r})
import train_lab
from utils.training import stage

update_ema, calls = stage.update_ema, []

def update_and_die(*arguments):
    update_ema(*arguments)
    calls.append(None)
    if len(calls) == 3 and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)

stage.update_ema = update_and_die
sys.exit(train_lab.main())
"""


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL on Windows")
def test_torchrun_restarts_a_run_whose_process_was_killed(sample_coco, tmp_path):
    script = tmp_path / "killed_once.py"
    script.write_text(KILLED_ONCE.format(root=str(ROOT)))
    more = ["--max-steps", 6, "--last-every", 2]
    alone, killed = (train_command(sample_coco, tmp_path / name, 4, *more) for name in ("alone", "killed"))
    assert torchrun(2, *alone).returncode == 0
    done = torchrun(2, script, *killed[1:], restarts=1)
    assert done.returncode == 0, done.stderr
    assert "at step 2 of 6" in done.stdout
    expected = newest(tmp_path / "alone")["weights"]
    for name, weight in newest(tmp_path / "killed")["weights"].items():
        assert torch.equal(weight, expected[name])
    logs = [(tmp_path / name / "log.jsonl").read_text() for name in ("alone", "killed")]
    assert logs[0] == logs[1]


def test_an_error_of_all_processes_ends_the_run_with_its_reason(tmp_path):
    done = torchrun(2, "cache_lab.py", "--images-dir", tmp_path / "nowhere", "--cache-dir", tmp_path)
    assert done.returncode != 0
    assert "nowhere: no such image, folder or list" in done.stderr


def test_two_processes_write_the_cache_of_one(sample_coco, tmp_path):
    common = ["cache_lab.py", "--images-dir", sample_coco / "train2017", "--load-size", 40, "--shard-images", 8]
    for processes in (1, 2):
        done = torchrun(processes, *common, "--cache-dir", tmp_path / str(processes))
        assert done.returncode == 0, done.stderr
    one, two = (sorted((tmp_path / name / "train2017").iterdir()) for name in "12")
    assert [path.name for path in one] == [path.name for path in two]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, two, strict=True))
    assert "train2017: already whole" in torchrun(2, *common, "--cache-dir", tmp_path / "2").stdout
