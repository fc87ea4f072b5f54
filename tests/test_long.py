"""Short forms of long benchmarks: nothing grows from step to step, and a large image needs little memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.measure import ROOT
from benchmarks.processes import color_large_images

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@linux
def test_long_run_finds_nothing_that_grows() -> None:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.long_run", "--steps", "200"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@linux
def test_large_image_is_colored_in_little_memory(tmp_path: Path) -> None:
    peak, limit = color_large_images(16, tmp_path)
    assert peak < limit
