"""The checkpoint that comes with the project."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import skimage.data
import torch

from config import DEFAULT_CHECKPOINT
from utils.coloring.exported import open_generator
from utils.images import read_picture, write_png
from utils.report.metrics import colorfulness
from utils.training.checkpoints import load_stage

ROOT = Path(__file__).parent.parent


def test_default_checkpoint_is_small_and_says_where_it_comes_from() -> None:
    assert DEFAULT_CHECKPOINT.stat().st_size <= 32e6
    _, info = open_generator(DEFAULT_CHECKPOINT, torch.device("cpu"))
    assert {"stage", "epoch", "step", "config", "metrics", "vgg", "commit"} <= info.keys()
    assert not any(str(value).startswith("/") for value in info["config"].values())


def test_default_checkpoint_can_be_trained_further() -> None:
    generator, discriminator, info = load_stage(DEFAULT_CHECKPOINT, torch.device("cpu"), "train_lab.py")
    assert generator.training and discriminator.training and info["epoch"] > 0


def test_infer_without_any_stage_colors_with_the_default(tmp_path: Path) -> None:
    photo = skimage.data.coffee()[:300, :300]
    write_png(
        tmp_path / "in" / "coffee.png", np.repeat(photo.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8)
    )
    command = [sys.executable, str(ROOT / "infer_lab.py"), "in", "--device", "cpu"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert f"checkpoint: {DEFAULT_CHECKPOINT} (stage " in done.stdout
    colored = torch.from_numpy(read_picture(tmp_path / "outputs" / "coffee.png").rgb).permute(2, 0, 1)[None] / 255
    assert 8 < colorfulness(colored).item() < 80  # the photograph itself has 81
