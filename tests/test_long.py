"""Short forms of long benchmarks: nothing grows from step to step, and a large image needs little memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.faults import ROOT

SHORT_FORMS = [("long_run", "--steps", "200"), ("large_image", "--megapixels", "16")]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("arguments", SHORT_FORMS, ids=lambda arguments: arguments[0])
def test_benchmark_finds_nothing(arguments: tuple[str, ...]) -> None:
    command = [sys.executable, "-W", "ignore", "-m", f"benchmarks.{arguments[0]}", *arguments[1:]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
