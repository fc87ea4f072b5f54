"""A short form of `benchmarks.faults`: every script is killed at random moments and run again."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from benchmarks.faults import ROOT, main


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL on Windows")
def test_killed_scripts_end_as_undisturbed_ones_when_they_are_run_again() -> None:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.faults", "--kills", "7"]  # one of each script
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "in all 7 kills, 0 failures" in done.stdout, done.stdout + done.stderr


def test_main_names_a_script_that_it_does_not_know(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)  # restores the folder, which it changes
    assert main(["--scripts", "train_lab"]) == 2
    assert "--scripts train_lab: give some of " in capsys.readouterr().err
